"""The loader of batches: all callers share few reads, nothing that is asked for is lost, and no failure is shared."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.loader import BatchLoader
from genstatus_server.telemetry import log

pytestmark = pytest.mark.skips_time

Task = asyncio.Task[Mapping[int, str]]


class Reads:
    """Stands for MongoDB: notes the keys of each read, and answers it, by its number, when it is told to."""

    def __init__(self) -> None:
        self.keys: list[tuple[int, ...]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.loader = BatchLoader[int](self.read)

    async def read(self, keys: Sequence[int]) -> Mapping[int, str]:
        number = len(self.keys)
        self.keys.append(tuple(keys))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return {key: f"{key} by {number}" for key in keys}

    async def begin(self, *keys: int, seconds: float = 60) -> Task:
        """A load that has begun as far as it can."""
        task = asyncio.ensure_future(self.loader.load(keys, asyncio.get_running_loop().time() + seconds))
        await settle()
        return task

    async def answer(self, number: int, error: BaseException | None = None) -> None:
        if error:
            self.answers[number].set_exception(error)
        else:
            self.answers[number].set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_loader_batches_the_loads_of_one_turn() -> None:
    reads, deadline = Reads(), asyncio.get_running_loop().time() + 60
    loads = [asyncio.ensure_future(reads.loader.load(keys, deadline)) for keys in ([1, 2], [2], [3, 4])]
    await settle()
    assert reads.keys == [(1, 2, 3, 4)]
    await reads.answer(0)
    assert [load.result()[key] for load, key in zip(loads, (1, 2, 4), strict=True)] == ["1 by 0", "2 by 0", "4 by 0"]


async def test_loader_has_two_reads_under_way_and_batches_the_rest() -> None:
    reads = Reads()
    loads = [await reads.begin(key) for key in (1, 2, 3, 4, 1)]
    assert reads.keys == [(1,), (2,)]
    await reads.answer(1)
    assert reads.keys[2:] == [(3, 4, 1)]  # 1 once more: the read under way may have seen it as it was before.
    await reads.answer(0)
    await reads.answer(2)
    assert [load.result()[key] for load, key in zip(loads, (1, 2, 3, 4, 1), strict=True)] == [
        "1 by 0",
        "2 by 1",
        "3 by 2",
        "4 by 2",
        "1 by 2",
    ]


async def test_loader_begins_a_new_read_for_a_later_load() -> None:
    reads = Reads()
    await reads.begin(1)
    second = await reads.begin(1)
    assert reads.keys == [(1,), (1,)]
    await reads.answer(1)
    assert second.result() == {1: "1 by 1"}
    await reads.answer(0)


async def test_loader_serves_a_load_as_the_last_read_ends() -> None:
    reads = Reads()
    first, second = await reads.begin(1), await reads.begin(2)
    reads.answers[0].set_result(None)
    reads.answers[1].set_result(None)
    await asyncio.gather(first, second)
    late = await reads.begin(3)  # The tasks of the reads have ended just now.
    await reads.answer(2)
    assert late.result() == {3: "3 by 2"}


@pytest.mark.parametrize("leaver", [0, 1])
async def test_loader_serves_the_other_callers_when_one_is_cancelled(leaver: int) -> None:
    reads, deadline = Reads(), asyncio.get_running_loop().time() + 60
    loads = [asyncio.ensure_future(reads.loader.load([1], deadline)) for _ in range(3)]
    await settle()
    loads.pop(leaver).cancel()
    await settle()
    await reads.answer(0)
    assert [load.result() for load in loads] == [{1: "1 by 0"}] * 2


async def test_loader_ends_each_load_at_its_own_deadline() -> None:
    reads = Reads()
    hasty, unhurried = await reads.begin(1, seconds=0), await reads.begin(2)
    with pytest.raises(ServiceUnavailable) as raised:
        await hasty
    assert log.cause(raised.value) == "TimeoutError: no answer in time"
    await reads.answer(0)
    await reads.answer(1)
    assert unhurried.result() == {2: "2 by 1"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ServiceUnavailable(), ServiceUnavailable),
        (TimeoutError(), ServiceUnavailable),
        (ConnectionResetError(), ServiceUnavailable),
        (KeyError("a defect"), RuntimeError),
    ],
)
async def test_loader_gives_each_caller_an_error_of_its_own(error: Exception, expected: type[Exception]) -> None:
    reads, deadline = Reads(), asyncio.get_running_loop().time() + 60
    loads = [asyncio.ensure_future(reads.loader.load([1], deadline)) for _ in range(2)]
    await settle()
    await reads.answer(0, error)
    first, second = [load.exception() for load in loads]
    assert type(first) is type(second) is expected
    assert first is not second
    assert first.__cause__ is error
    assert expected is ServiceUnavailable or str(first) == "documents could not be loaded"


async def test_loader_keeps_the_cause_of_an_unavailable_service() -> None:
    reads, error, cause = Reads(), ServiceUnavailable(), OSError("no route")
    error.__cause__ = cause
    load = await reads.begin(1)
    await reads.answer(0, error)
    failure = load.exception()
    assert failure is not None
    assert failure.__cause__ is cause


async def test_loader_goes_on_after_a_failure() -> None:
    reads = Reads()
    failed = await reads.begin(1)
    await reads.answer(0, KeyError("a defect"))
    assert failed.exception()
    load = await reads.begin(1)
    await reads.answer(1)
    assert load.result() == {1: "1 by 1"}


async def test_loader_still_runs_two_reads_after_earlier_ones() -> None:
    reads = Reads()
    for number in range(3):
        await reads.begin(1)
        await reads.answer(number)
    loads = [await reads.begin(key) for key in (2, 3, 4)]
    assert reads.keys[3:] == [(2,), (3,)]
    await reads.answer(3)
    await reads.answer(4)
    await reads.answer(5)
    assert all(load.done() for load in loads)


async def test_loader_ignores_an_error_after_its_caller_was_cancelled() -> None:
    reads = Reads()
    load = await reads.begin(1)
    load.cancel()
    await settle()
    await reads.answer(0, KeyError("a defect"))  # The test's loop would tell of an exception never retrieved.


async def test_loader_that_is_closed_ends_every_load() -> None:
    reads = Reads()
    loads = [await reads.begin(key) for key in (1, 2, 3)]
    await reads.loader.close()
    for load in loads:
        with pytest.raises(ServiceUnavailable) as raised:
            await load
        assert log.cause(raised.value) == "ConnectionAbortedError: the server stops"
    assert reads.keys == [(1,), (2,)]
    assert all(answer.cancelled() for answer in reads.answers)
