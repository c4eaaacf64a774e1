"""Reads of many keys in few queries: nothing asked for is lost, and every key is read after it was asked for."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from genstatus_server.errors import ServiceUnavailable
from genstatus_server.grouped import GroupedReads
from tests.support.server import until


class Queries:
    """Stands for MongoDB: keeps the groups that were asked for, and answers each when it is told to."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, ...]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def read_all(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.groups.append(tuple(keys))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return {key: f"{key}" for key in keys}

    async def asked(self, count: int) -> None:
        await until(lambda: len(self.groups) >= count)

    def answer(self, number: int, error: Exception | None = None) -> None:
        if error:
            self.answers[number].set_exception(error)
        else:
            self.answers[number].set_result(None)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_asked_in_one_turn_goes_in_one_query() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    reads = [asyncio.ensure_future(grouped.read(key)) for key in (1, 2, 2, 3)]
    await queries.asked(1)
    queries.answer(0)
    assert await asyncio.gather(*reads) == ["1", "2", "2", "3"]
    assert queries.groups == [(1, 2, 3)]


async def test_what_is_asked_while_two_are_under_way_goes_in_the_next() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    reads = [asyncio.ensure_future(grouped.read(1))]
    await queries.asked(1)
    reads += [asyncio.ensure_future(grouped.read(2))]
    await queries.asked(2)
    reads += [asyncio.ensure_future(grouped.read(key)) for key in (1, 3, 4)]
    await settle()
    assert queries.groups == [(1,), (2,)]
    queries.answer(0)
    await queries.asked(3)
    assert queries.groups[2] == (1, 3, 4)  # 1 once more: the query under way may have seen it as it was before.
    queries.answer(1)
    queries.answer(2)
    assert await asyncio.gather(*reads) == ["1", "2", "1", "3", "4"]


async def test_a_read_that_is_asked_for_in_the_turn_in_which_the_last_query_ends_is_not_lost() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    first = [asyncio.ensure_future(grouped.read(1))]
    await queries.asked(1)
    first += [asyncio.ensure_future(grouped.read(2))]
    await queries.asked(2)
    queries.answer(0)
    queries.answer(1)
    await asyncio.gather(*first)
    late = asyncio.ensure_future(grouped.read(3))  # The tasks of the queries have ended, but are not put away yet.
    await queries.asked(3)
    queries.answer(2)
    assert await late == "3"


async def test_a_query_that_fails_fails_only_those_who_asked_in_it() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    first = [asyncio.ensure_future(grouped.read(key)) for key in (1, 2)]
    await queries.asked(1)
    second = asyncio.ensure_future(grouped.read(1))
    await queries.asked(2)
    cause = OSError("gone")
    error = ServiceUnavailable()
    error.__cause__ = cause
    queries.answer(0, error)
    queries.answer(1)
    errors = await asyncio.gather(*first, return_exceptions=True)
    assert [type(each) for each in errors] == [ServiceUnavailable, ServiceUnavailable]
    assert errors[0] is not errors[1]
    assert errors[0].__cause__ is cause  # type: ignore[union-attr] # an exception, as was just seen
    assert await second == "1"


async def test_a_defect_is_told_and_the_next_query_goes_on() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    first = asyncio.ensure_future(grouped.read(1))
    await queries.asked(1)
    queries.answer(0, KeyError("a defect"))
    with pytest.raises(RuntimeError) as told:
        await first
    assert isinstance(told.value.__cause__, KeyError)
    second = asyncio.ensure_future(grouped.read(1))
    await queries.asked(2)
    queries.answer(1)
    assert await second == "1"


async def test_who_goes_away_takes_nothing_from_the_others() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    gone, stays = (asyncio.ensure_future(grouped.read(1)) for _ in range(2))
    await queries.asked(1)
    gone.cancel()
    await settle()
    queries.answer(0)
    assert await stays == "1"


async def test_closing_ends_what_is_under_way() -> None:
    queries = Queries()
    grouped = GroupedReads(queries.read_all)
    read = asyncio.ensure_future(grouped.read(1))
    await queries.asked(1)
    await grouped.close()
    with pytest.raises(asyncio.CancelledError):
        await read
