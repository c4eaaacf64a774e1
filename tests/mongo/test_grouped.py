"""Reads of many keys in few queries: all share them, nothing asked for is lost, and nothing outdated is kept."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.loader import GroupedReads


class Queries:
    """Stands for MongoDB: keeps what was asked for, and answers each query, by its number, when it is told to.

    `grouped` is what is tested, with this as its source; `kept` is what it gave to keep.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.kept: dict[int, str] = {}
        self.grouped: GroupedReads[int, str] = GroupedReads(self.read_all, self.kept.__setitem__)

    async def read_all(self, keys: Sequence[int]) -> Mapping[int, str]:
        number = len(self.asked)
        self.asked.append(tuple(keys))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return {key: f"{key} by {number}" for key in keys}

    async def begin(self, key: int, *, anew: bool = False) -> "asyncio.Task[str]":
        """A read that has begun as far as it can."""
        task = asyncio.create_task(self._read_anew(key) if anew else self.grouped.read(key))
        await settle()
        return task

    async def _read_anew(self, key: int) -> str:
        return (await self.grouped.read_anew([key]))[key]

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
    reads = [asyncio.ensure_future(queries.grouped.read(key)) for key in (1, 2, 2, 3)]
    several = asyncio.ensure_future(queries.grouped.read_anew([3, 4]))
    await settle()
    assert queries.asked == [(1, 2, 3, 4)]
    queries.answer(0)
    assert await asyncio.gather(*reads) == ["1 by 0", "2 by 0", "2 by 0", "3 by 0"]
    assert {key: (await several)[key] for key in (3, 4)} == {3: "3 by 0", 4: "4 by 0"}
    assert sorted(queries.kept) == [1, 2, 3, 4]


async def test_who_asks_for_what_is_being_read_shares_that_query() -> None:
    queries = Queries()
    reads = [await queries.begin(1), await queries.begin(1)]
    assert queries.asked == [(1,)]
    queries.answer(0)
    assert await asyncio.gather(*reads) == ["1 by 0"] * 2


async def test_what_is_asked_while_two_are_under_way_goes_in_the_next() -> None:
    queries = Queries()
    reads = [await queries.begin(1), await queries.begin(2)]
    reads += [await queries.begin(key, anew=True) for key in (1, 3, 4)]
    assert queries.asked == [(1,), (2,)]
    queries.answer(0)
    await settle()
    assert queries.asked[2] == (1, 3, 4)  # 1 once more: the query under way may have seen it as it was before.
    queries.answer(1)
    queries.answer(2)
    assert await asyncio.gather(*reads) == ["1 by 0", "2 by 1", "1 by 2", "3 by 2", "4 by 2"]


async def test_a_read_that_is_asked_for_in_the_turn_in_which_the_last_query_ends_is_not_lost() -> None:
    queries = Queries()
    first = [await queries.begin(1), await queries.begin(2)]
    queries.answer(0)
    queries.answer(1)
    await asyncio.gather(*first)
    late = asyncio.ensure_future(queries.grouped.read(3))  # The tasks of the queries have ended, but are not put away.
    await settle()
    queries.answer(2)
    assert await late == "3 by 2"


async def test_a_read_that_is_wanted_anew_begins_after_it_was_asked_for() -> None:
    queries = Queries()
    before, anew = await queries.begin(1), await queries.begin(1, anew=True)
    shared = await queries.begin(1)
    assert queries.asked == [(1,), (1,)]
    queries.answer(1)
    assert await anew == await shared == "1 by 1"
    queries.answer(0)
    assert await before == "1 by 0"
    assert queries.kept == {1: "1 by 1"}, "the newer one is what is kept, whichever ends last"


@pytest.mark.parametrize("forget_all", [False, True])
async def test_a_value_that_was_read_while_its_key_changed_is_given_but_not_kept(*, forget_all: bool) -> None:
    queries = Queries()
    outdated = await queries.begin(1)
    if forget_all:
        queries.grouped.forget_all()
    else:
        queries.grouped.forget(1)
    renewed = await queries.begin(1)
    assert queries.asked == [(1,), (1,)], "who asks after the change does not get what was read before it"
    queries.answer(1)
    assert await renewed == "1 by 1"
    queries.answer(0)
    assert await outdated == "1 by 0"
    assert queries.kept == {1: "1 by 1"}


async def test_a_change_of_a_key_that_is_still_to_be_read_is_no_reason_not_to_keep_it() -> None:
    queries = Queries()
    reads = [await queries.begin(1), await queries.begin(2), await queries.begin(3)]
    queries.grouped.forget(3)
    for number in range(3):
        queries.answer(number) if number < 2 else None
        await settle()
    queries.answer(2)
    await asyncio.gather(*reads)
    assert queries.kept[3] == "3 by 2"


@pytest.mark.parametrize("leaver", [0, 1])
async def test_one_who_goes_away_does_not_take_the_query_from_the_others(leaver: int) -> None:
    queries = Queries()
    reads = [await queries.begin(1) for _ in range(3)]
    reads.pop(leaver).cancel()
    await settle()
    queries.answer(0)
    assert await asyncio.gather(*reads) == ["1 by 0"] * 2
    assert queries.asked == [(1,)]


async def test_a_query_that_nobody_waits_for_any_more_is_kept_and_its_error_is_nobodys() -> None:
    queries = Queries()
    for key in (1, 2):
        (await queries.begin(key)).cancel()
    await settle()
    queries.answer(0)
    queries.answer(1, OSError("away"))
    await settle()
    assert queries.kept == {1: "1 by 0"}


async def test_a_query_that_fails_fails_only_those_who_asked_in_it() -> None:
    queries = Queries()
    first = [await queries.begin(1), await queries.begin(1)]
    second = await queries.begin(1, anew=True)
    error = ServiceUnavailable()
    error.__cause__ = cause = OSError("gone")
    queries.answer(0, error)
    queries.answer(1)
    errors = await asyncio.gather(*first, return_exceptions=True)
    assert [type(each) for each in errors] == [ServiceUnavailable, ServiceUnavailable]
    assert errors[0] is not errors[1], "each would gather the tracebacks of all"
    assert errors[0].__cause__ is cause  # type: ignore[union-attr] # an exception, as was just seen
    assert await second == "1 by 1"


async def test_a_defect_is_told_and_the_next_query_goes_on() -> None:
    queries = Queries()
    first = await queries.begin(1)
    queries.answer(0, KeyError("a defect"))
    with pytest.raises(RuntimeError) as told:
        await first
    assert isinstance(told.value.__cause__, KeyError)
    second = await queries.begin(1)
    queries.answer(1)
    assert await second == "1 by 1"


async def test_what_is_being_read_can_be_told() -> None:
    queries = Queries()
    read = await queries.begin(1)
    assert list(queries.grouped.keys_under_way()) == [1]
    queries.answer(0)
    await read
    assert list(queries.grouped.keys_under_way()) == []


async def test_closing_ends_what_is_under_way_and_what_would_have_come_next() -> None:
    queries = Queries()
    reads = [await queries.begin(key) for key in (1, 2, 3)]
    await queries.grouped.close()
    for read in reads:
        with pytest.raises(asyncio.CancelledError):
            await read


async def test_who_waits_too_long_is_told_and_the_others_go_on_waiting() -> None:
    queries = Queries()
    now = asyncio.get_running_loop().time()
    patient = asyncio.create_task(queries.grouped.read(1))
    with pytest.raises(ServiceUnavailable) as told:
        await queries.grouped.read(1, now + 0.01)
    assert isinstance(told.value.__cause__, TimeoutError)
    with pytest.raises(ServiceUnavailable):
        await queries.grouped.read_anew([1], now - 1)
    queries.answer(0)
    queries.answer(1)
    assert await patient == "1 by 0"
