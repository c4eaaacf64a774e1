"""What is remembered of documents: reads are shared, and nothing that may be outdated is ever kept."""

import asyncio
from collections.abc import Hashable

import pytest

from genstatus_server.remembered import Remembered
from tests.support.server import until

Value = tuple[str, int] | None


class Reads:
    """Stands for MongoDB: keeps what was asked for, and answers each read when it is told to.

    `remembered` is what is tested, with this as its source.
    """

    def __init__(self, size: int = 10) -> None:
        self.keys: list[str] = []
        self.answers: list[asyncio.Future[Value]] = []
        self.fresh = True
        self.differences: list[str] = []
        self.remembered: Remembered[str, Value] = Remembered(
            self.read,
            size=size,
            is_fresh=lambda: self.fresh,
            on_difference=self.differences.append,
            is_kept=lambda value: value is not None,
            document_id=self.document_id,
        )

    async def read(self, key: str) -> Value:
        self.keys.append(key)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    @staticmethod
    def document_id(value: Value) -> Hashable:
        return value and value[0]

    async def begin(self, key: str, *, anew: bool = False) -> "asyncio.Task[Value]":
        """A get that has begun as far as it can."""
        task = asyncio.create_task(self.remembered.get(key, anew=anew))
        await settle()
        return task

    async def learn(self, key: str, value: Value) -> None:
        """Have it read `value` for `key`."""
        task = await self.begin(key, anew=True)
        self.answers[-1].set_result(value)
        await task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_was_read_is_not_read_again() -> None:
    reads = Reads()
    await reads.learn("a", ("id", 1))
    assert [await reads.remembered.get("a") for _ in range(3)] == [("id", 1)] * 3
    assert reads.keys == ["a"]
    assert reads.remembered.hits == 3


async def test_who_asks_at_the_same_time_shares_one_read() -> None:
    reads = Reads()
    tasks = [await reads.begin(key) for key in ("a", "a", "b", "a")]
    assert reads.keys == ["a", "b"]
    for number, answer in enumerate(reads.answers):
        answer.set_result(("id", number))
    assert await asyncio.gather(*tasks) == [("id", 0), ("id", 0), ("id", 1), ("id", 0)]


@pytest.mark.parametrize("leaver", [0, 1])
async def test_one_who_goes_away_does_not_take_the_read_from_the_others(leaver: int) -> None:
    reads = Reads()
    tasks = [await reads.begin("a") for _ in range(3)]
    tasks.pop(leaver).cancel()
    await settle()
    reads.answers[0].set_result(("id", 1))
    assert await asyncio.gather(*tasks) == [("id", 1)] * 2
    assert reads.keys == ["a"]


async def test_a_read_that_nobody_waits_for_any_more_is_kept() -> None:
    reads = Reads()
    (await reads.begin("a")).cancel()
    await settle()
    reads.answers[0].set_result(("id", 1))
    await until(lambda: reads.remembered.knows("a"))
    assert await reads.remembered.get("a") == ("id", 1)


async def test_an_error_is_for_all_who_wait_and_is_not_kept() -> None:
    reads = Reads()
    tasks = [await reads.begin("a") for _ in range(2)]
    reads.answers[0].set_exception(OSError("away"))
    assert [str(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == ["away"] * 2
    again = await reads.begin("a")
    reads.answers[1].set_result(("id", 1))
    assert await again == ("id", 1)


async def test_an_error_that_nobody_waits_for_any_more_is_nobodys() -> None:
    reads = Reads()
    (await reads.begin("a")).cancel()
    await settle()
    reads.answers[0].set_exception(OSError("away"))
    await settle()
    assert not reads.remembered.knows("a")


@pytest.mark.parametrize("drop_all", [False, True])
async def test_a_value_that_was_read_while_its_key_was_dropped_is_given_but_not_kept(*, drop_all: bool) -> None:
    reads = Reads()
    outdated = await reads.begin("a")
    if drop_all:
        reads.remembered.drop_all()
    else:
        assert reads.remembered.drop("a") is None
    renewed = await reads.begin("a")
    assert reads.keys == ["a", "a"], "who asks after the change does not get what was read before it"
    reads.answers[1].set_result(("id", 2))
    assert await renewed == ("id", 2)
    reads.answers[0].set_result(("id", 1))
    assert await outdated == ("id", 1)
    assert await reads.remembered.get("a") == ("id", 2)


async def test_a_read_that_is_wanted_anew_begins_after_it_was_asked_for() -> None:
    reads = Reads()
    before = await reads.begin("a")
    anew = await reads.begin("a", anew=True)
    shared = await reads.begin("a")
    assert reads.keys == ["a", "a"]
    reads.answers[1].set_result(("id", 2))
    assert await anew == await shared == ("id", 2)
    reads.answers[0].set_result(("id", 1))
    assert await before == ("id", 1)
    assert await reads.remembered.get("a") == ("id", 2), "the newer read is what is kept, whichever ends last"


async def test_what_is_not_fresh_is_read_again_and_trusted_again_later() -> None:
    reads = Reads()
    await reads.learn("a", ("id", 1))
    reads.fresh = False
    task = await reads.begin("a")
    assert reads.keys == ["a", "a"]
    reads.answers[1].set_result(("id", 2))
    assert await task == ("id", 2)
    assert reads.differences == ["a"], "whoever waits for it is told"
    reads.fresh = True
    assert await reads.remembered.get("a") == ("id", 2)


async def test_what_is_read_again_and_is_the_same_is_no_difference() -> None:
    reads = Reads()
    for _ in range(2):
        await reads.learn("a", ("id", 1))
    assert reads.differences == []


async def test_what_is_not_to_be_kept_is_read_each_time_and_replaces_what_was_kept() -> None:
    reads = Reads()
    await reads.learn("a", ("id", 1))
    await reads.learn("a", None)
    assert reads.differences == ["a"]
    assert not reads.remembered.knows("a")
    task = await reads.begin("a")
    assert len(reads.keys) == 3
    reads.answers[-1].set_result(None)
    assert await task is None


async def test_the_one_used_longest_ago_makes_room_and_who_waits_for_it_is_told() -> None:
    reads = Reads(size=2)
    await reads.learn("a", ("id a", 1))
    await reads.learn("b", ("id b", 1))
    assert await reads.remembered.get("a") == ("id a", 1)
    await reads.learn("c", ("id c", 1))
    assert [reads.remembered.knows(key) for key in "abc"] == [True, False, True]
    assert reads.differences == ["b"]
    assert reads.remembered.key_of("id b") is None


async def test_a_document_is_found_by_its_id_for_as_long_as_it_is_kept() -> None:
    reads = Reads()
    assert reads.remembered.key_of("id") is None
    await reads.learn("a", ("id", 1))
    assert reads.remembered.key_of("id") == "a"
    assert reads.remembered.peek("a") == ("id", 1)
    await reads.learn("a", ("another id", 1))
    assert (reads.remembered.key_of("id"), reads.remembered.key_of("another id")) == (None, "a")
    assert reads.remembered.drop("a") == ("another id", 1)
    assert reads.remembered.key_of("another id") is None
    await reads.learn("a", ("id", 1))
    reads.remembered.drop_all()
    assert (reads.remembered.key_of("id"), reads.remembered.peek("a")) == (None, None)


async def test_what_is_being_read_can_be_told() -> None:
    reads = Reads()
    task = await reads.begin("a")
    assert list(reads.remembered.keys_in_flight()) == ["a"]
    reads.answers[0].set_result(None)
    await task
    assert list(reads.remembered.keys_in_flight()) == []


async def test_closing_ends_the_reads_in_flight() -> None:
    reads = Reads()
    tasks = [await reads.begin("a"), await reads.begin("b", anew=True)]
    await reads.remembered.close()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task
    await Reads().remembered.close()


async def test_a_document_that_is_found_under_another_key_is_no_longer_kept_under_the_first() -> None:
    """The change that moved it names only where it is now: what is kept elsewhere would never be dropped."""
    reads = Reads()
    await reads.learn("a", ("id", 1))
    await reads.learn("b", ("id", 2))
    assert not reads.remembered.knows("a")
    assert reads.differences == ["a"]
    assert reads.remembered.drop("a") is None
    assert reads.remembered.key_of("id") == "b"
