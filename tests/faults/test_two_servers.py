"""Two servers behind nginx on three nodes: a server is killed under load, then the primary, and nobody is misled."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.conftest import Serve
from tests.faults.looping import Clients, all_held
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.nginx import Nginx, running_nginx
from tests.support.replica_set import ReplicaSet
from tests.support.scene import Scene

CLIENTS = scaled(80, 400)
NUMBERS = range(1, CLIENTS + 1)
#: In four parts: before anything happens, after a server was killed, after the primary was killed, and at the end.
PARTS = [NUMBERS[start::4] for start in range(4)]


def test_two_servers_answer_all_clients_despite_killed_server_and_primary(
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
    clients = Clients(nginx, NUMBERS)
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


async def finish(scene: Scene, numbers: Sequence[int], clients: Clients, figures: Figures, what: str) -> None:
    began = time.monotonic()
    await asyncio.to_thread(scene.finish, numbers)
    figures.note(f"s until all {len(numbers)} were told: {what}", f"{await clients.told(numbers) - began:.2f}")
