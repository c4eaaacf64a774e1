"""A client that waits for generated files and fetches them, blocking or for asyncio. Extra: `client`.

    with GenerationClient("https://status.example.gov", session_token) as client:
        generation = client.wait_for_generation(123, "D1", timeout=600)

Needs neither the server nor what the server is made of.
"""

from .answers import (
    DownloadFailed,
    Generation,
    GenerationError,
    GenerationRefused,
    Phase,
    ServerUnavailable,
    Status,
    Update,
    WaitTimedOut,
)
from .async_client import AsyncGenerationClient
from .sync_client import GenerationClient

__all__ = [
    "AsyncGenerationClient",
    "DownloadFailed",
    "Generation",
    "GenerationClient",
    "GenerationError",
    "GenerationRefused",
    "Phase",
    "ServerUnavailable",
    "Status",
    "Update",
    "WaitTimedOut",
]
