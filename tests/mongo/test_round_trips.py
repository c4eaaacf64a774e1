"""How many queries a request costs: counted by MongoDB itself, whose profiler notes every command."""

from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.support.server import Server, seen_by
from tests.support.world import World

pytestmark = pytest.mark.one_python


class Profiler:
    """The aggregations that the server has sent since it was last asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = 0

    async def queries(self) -> list[dict[str, Any]]:
        """Their commands, in order."""
        of_server = {"appName": "genstatus_server", "command.aggregate": {"$exists": True}, "op": "command"}
        found = await self._world.database["system.profile"].find(of_server).sort("ts").to_list()
        commands = [each["command"] for each in found if "$changeStream" not in each["command"]["pipeline"][0]]
        seen, self._seen = self._seen, len(commands)
        return commands[seen:]


@pytest.fixture
def profiler(io_loop: IOLoop, world: World, server: Server) -> Iterator[Profiler]:
    io_loop.run_sync(lambda: world.database.command("profile", 2))
    yield Profiler(world)
    io_loop.run_sync(lambda: world.database.command("profile", 0))


def collections(command: dict[str, Any]) -> list[str]:
    others = [each["$unionWith"]["coll"] for each in command["pipeline"] if "$unionWith" in each]
    return sorted([command["aggregate"], *others])


async def test_poll_costs_one_query_with_a_cached_login_else_two(
    server: Server, world: World, profiler: Profiler
) -> None:
    await world.put_job()
    await world.put_job(101, "E")
    await seen_by(server, world)
    await world.log_in("other", 11)
    await profiler.queries()
    assert (await server.check("other", file_type="E")).code == 200
    cold = await profiler.queries()
    assert [collections(each) for each in cold] == [["sessions"], ["jobs", "sessions", "submissions"]]
    assert (await server.check("other", file_type="D1")).code == 200
    (cached,) = await profiler.queries()
    assert collections(cached) == ["jobs", "sessions", "submissions"]
    assert (await server.check("other", file_type="D1")).code == 200
    assert not await profiler.queries()
    for command in (*cold, cached):
        assert command["readConcern"]["level"] == "snapshot"


@pytest.mark.parametrize("query", [{}, {"wait": "true"}, {"file_type": "x"}, {"submission_id": 99}])
async def test_poll_with_an_unknown_token_reads_the_session_only(
    server: Server, profiler: Profiler, query: dict[str, Any]
) -> None:
    assert (await server.check("unknown", **query)).code == 401
    assert [collections(each) for each in await profiler.queries()] == [["sessions"]]


async def test_poll_without_a_token_costs_no_query(server: Server, profiler: Profiler) -> None:
    assert (await server.check(None)).code == 401
    assert not await profiler.queries()
