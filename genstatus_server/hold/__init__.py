"""The hold and the registry of holds. Pure asyncio: knows no HTTP and no MongoDB."""
