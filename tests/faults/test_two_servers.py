"""Two servers behind nginx on three nodes: a server is killed under load, then the primary, and nobody is misled."""

import asyncio
import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import question
from tests.support.nginx import Nginx, running_nginx
from tests.support.replica_set import ReplicaSet
from tests.support.scene import TOKEN, Scene

CLIENTS = scaled(80, 400)
NUMBERS = range(1, CLIENTS + 1)
#: In four parts: before anything happens, after a server was killed, after the primary was killed, and at the end.
PARTS = [NUMBERS[start::4] for start in range(4)]


class Clients:
    """Each asks for its own job again and again, as a browser would, until it is told a result."""

    def __init__(self, nginx: Nginx) -> None:
        context = ssl.create_default_context(cafile=nginx.ca_file)
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(verify=context, base_url=nginx.url, limits=limits, timeout=60)
        self.told_at: dict[int, float] = {}
        self.urls: dict[int, str] = {}
        self.answers: Counter[object] = Counter()
        self._loops = [asyncio.create_task(self._until_told(number)) for number in NUMBERS]

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


def test_every_client_ends_with_the_right_answer(
    replica_set: ReplicaSet, on_the_set: Scene, serve: Serve, figures: Figures, tmp_path: Path
) -> None:
    on_the_set.prepare(NUMBERS)
    with serve(replica_set.uri, on_the_set.name) as first, serve(replica_set.uri, on_the_set.name) as second:
        first.wait_ready()
        second.wait_ready()
        with running_nginx(tmp_path, [each.url.removeprefix("http://") for each in (first, second)]) as nginx:
            # A loop of its own: it takes longer than an async test may.
            asyncio.run(kill_one_after_the_other(nginx, replica_set, (first, second), on_the_set, figures))


async def kill_one_after_the_other(
    nginx: Nginx, replica_set: ReplicaSet, servers: tuple[Served, Served], scene: Scene, figures: Figures
) -> None:
    first, second = servers
    clients = Clients(nginx)
    try:
        await all_held(CLIENTS, first.held, second.held)
        await finish(scene, PARTS[0], clients, figures, "nothing happened")

        os.kill(first.pid, signal.SIGKILL)
        await all_held(CLIENTS - len(PARTS[0]), second.held)
        await finish(scene, PARTS[1], clients, figures, "after kill -9 of a server")

        await asyncio.to_thread(replica_set.wait_primary().kill)
        await finish(
            scene, PARTS[2], clients, figures, "after kill -9 of the primary, its successor's election included"
        )
        await finish(scene, PARTS[3], clients, figures, "with one server and two nodes")
    finally:
        await clients.close()
    for number in NUMBERS:
        assert f"/{number}/D1.csv?" in clients.urls[number]
    for answer, count in clients.answers.items():
        figures.note(f"answers: {answer}", count)


async def all_held(count: int, *held: Callable[[], int]) -> None:
    """Wait until these servers hold so many together. An answer and the next question are a moment apart."""
    async with asyncio.timeout(60):
        while sum([await asyncio.to_thread(each) for each in held]) < count:  # noqa: ASYNC110 - other processes hold.
            await asyncio.sleep(0.05)


async def finish(scene: Scene, numbers: Sequence[int], clients: Clients, figures: Figures, what: str) -> None:
    began = time.monotonic()
    await asyncio.to_thread(scene.finish, numbers)
    figures.note(f"s until all {len(numbers)} were told: {what}", f"{await clients.told(numbers) - began:.2f}")
