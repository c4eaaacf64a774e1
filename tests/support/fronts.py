"""Both fronts of the Python client with one face: awaited, the one that blocks in a thread of its own."""

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from genstatus_server.client import AsyncGenerationClient, Generation, GenerationClient


class Front:
    """A client of the server at `base_url`; `inner` is the client itself."""

    def __init__(self, base_url: str, token: str) -> None:
        self.inner = self.make(base_url, token)

    def make(self, base_url: str, token: str) -> Any:
        raise NotImplementedError

    async def call(self, name: str, *asked: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def wait_for_generation(self, *asked: Any, **options: Any) -> Generation:
        generation: Generation = await self.call("wait_for_generation", *asked, **options)
        return generation

    async def check_generation(self, *asked: Any, **options: Any) -> Generation:
        generation: Generation = await self.call("check_generation", *asked, **options)
        return generation

    async def download(self, *asked: Any, **options: Any) -> Path:
        path: Path = await self.call("download", *asked, **options)
        return path

    async def download_to(self, *asked: Any, **options: Any) -> int:
        size: int = await self.call("download_to", *asked, **options)
        return size

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.call("close")


class Blocking(Front):
    def make(self, base_url: str, token: str) -> GenerationClient:
        return GenerationClient(base_url, token).__enter__()

    async def call(self, name: str, *asked: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.inner, name), *asked, **options)


class Awaited(Front):
    def make(self, base_url: str, token: str) -> AsyncGenerationClient:
        return AsyncGenerationClient(base_url, token)

    async def call(self, name: str, *asked: Any, **options: Any) -> Any:
        return await getattr(self.inner, name)(*asked, **options)


FRONTS = (Blocking, Awaited)
