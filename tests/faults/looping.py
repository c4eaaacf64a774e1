"""Clients behind nginx that ask until they are told, and remember what they were answered meanwhile."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence

import httpx

from tests.support.holds import question
from tests.support.nginx import Nginx
from tests.support.scene import TOKEN


class Clients:
    """One for each of the jobs `numbers`. It asks again and again, as a browser would, until it is told a result."""

    def __init__(self, nginx: Nginx, numbers: Sequence[int]) -> None:
        context = ssl.create_default_context(cafile=nginx.ca_file)
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(verify=context, base_url=nginx.url, limits=limits, timeout=60)
        self.told_at: dict[int, float] = {}
        self.urls: dict[int, str] = {}
        self.answers: Counter[object] = Counter()
        self._loops = [asyncio.create_task(self._until_told(number)) for number in numbers]

    async def _until_told(self, number: int) -> None:
        path = question(number, timeout=5)
        while number not in self.told_at:
            answer = await self._ask(path)
            if answer is None:
                await asyncio.sleep(0.2)
                continue
            body = answer.json()
            assert body["job_id"] == number
            if body["status"] != "waiting":
                assert body["status"] == "finished"
                self.urls[number], self.told_at[number] = body["url"], time.monotonic()

    async def _ask(self, path: str) -> httpx.Response | None:
        """The answer; None where it is no 200."""
        try:
            answer = await self._http.get(path, headers={"X-Session-ID": TOKEN})
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            return None
        self.answers[answer.status_code] += 1
        return answer if answer.status_code == httpx.codes.OK else None

    async def told(self, numbers: Sequence[int]) -> float:
        """Wait until all these are told; gives when the last one was."""
        async with asyncio.timeout(60):
            while not all(number in self.told_at for number in numbers):
                for loop in self._loops:
                    if loop.done():
                        loop.result()  # One that has failed says why.
                await asyncio.sleep(0.01)
        return max(self.told_at[number] for number in numbers)

    async def close(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._http.aclose()


async def all_held(count: int, *held: Callable[[], int]) -> None:
    """Wait until these servers hold so many together. An answer and the next question are a moment apart."""
    async with asyncio.timeout(60):
        while sum([await asyncio.to_thread(each) for each in held]) < count:  # noqa: ASYNC110 - other processes hold.
            await asyncio.sleep(0.05)
