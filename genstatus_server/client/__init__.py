"""A client that waits for generated files and fetches them, blocking or for asyncio. Extra: `client`.

    with GenerationClient("https://status.example.gov", session_token) as client:
        generation = client.wait_for_generation(123, "D1", timeout=600)

Needs neither the server nor what the server is made of.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
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


def __dir__() -> list[str]:
    return __all__


_CLIENTS = {"AsyncGenerationClient": ".async_client", "GenerationClient": ".sync_client"}


def __getattr__(name: str) -> object:
    """Import a client when it is first named: its library is an extra, which `genstatus --help` does without."""
    if name not in _CLIENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_CLIENTS[name], __name__), name)
