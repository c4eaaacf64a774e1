"""The registry of holds: waking, ending, waiting, and that nothing is left."""

import asyncio
from contextlib import suppress

import pytest

from genstatus_server.hold.holds import HoldRegistry, WaitResult

pytestmark = pytest.mark.skips_time

A, B = ("jobs", 1), ("jobs", 2)


def now() -> float:
    return asyncio.get_running_loop().time()


async def waiting(registry: HoldRegistry[tuple[str, int]], count: int = 1) -> None:
    async with asyncio.timeout(60):
        while registry.waiting() < count:  # noqa: ASYNC110 - the loop's turns are what is waited for.
            await asyncio.sleep(0)


async def test_registry_wakes_only_the_holds_of_a_key() -> None:
    registry = HoldRegistry[tuple[str, int]]()
    with registry.hold((A,)) as first, registry.hold((A, B)) as second:
        registry.wake([B])
        assert (first.woken, second.woken) == (False, True)
        registry.wake([A, ("jobs", 3)])
        assert first.woken
        assert registry.of(A) == {first, second}
        assert not registry.of(("jobs", 3))
        assert (len(registry.of(A)), len(registry.of(B)), len(registry.of(("jobs", 3)))) == (2, 1, 0)
        assert set(registry.keys()) == {A, B}
        assert registry.oldest() is first
        assert now() - 5 < first.held_since <= now()
    assert (len(registry), set(registry.keys()), registry.oldest()) == (0, set(), None)


async def test_registry_says_whether_it_has_woken_anybody() -> None:
    registry = HoldRegistry[tuple[str, int]]()
    assert not registry.wake(None)
    with registry.hold((A,)):
        assert registry.wake([A, B])
        assert registry.wake(None)
        assert not registry.wake([B])
        assert not registry.wake([])


async def test_registry_wakes_every_hold() -> None:
    registry = HoldRegistry[tuple[str, int]]()
    with registry.hold((A,)) as first, registry.hold((B,)) as second:
        registry.wake(None)
        assert first.woken
        assert second.woken


async def test_registry_is_empty_after_a_hold_that_raised() -> None:
    registry = HoldRegistry[tuple[str, int]]()
    with suppress(KeyError), registry.hold((A, B)):
        raise KeyError
    assert (len(registry), len(registry.of(A)), set(registry.keys())) == (0, 0, set())


async def test_hold_does_not_wait_for_a_wake_that_came_before() -> None:
    with HoldRegistry[tuple[str, int]]().hold((A,)) as hold:
        hold.wake()
        await asyncio.wait_for(hold.wait(now() + 60), 5)


@pytest.mark.parametrize("how", ["wake", "end", "time"])
async def test_hold_waits_for_a_wake_an_end_or_its_deadline(how: str) -> None:
    registry = HoldRegistry[tuple[str, int]]()
    with registry.hold((A,)) as hold:
        task = asyncio.create_task(hold.wait(now() + (0.01 if how == "time" else 60)))
        await waiting(registry)
        assert not task.done()
        if how == "wake":
            registry.wake([A])
        elif how == "end":
            hold.end(WaitResult.GONE)
        await asyncio.wait_for(task, 5)
        assert (hold.woken, hold.ended) == (how == "wake", WaitResult.GONE if how == "end" else None)
        assert not hold.is_waiting


async def test_hold_keeps_the_time_of_its_first_unchecked_wake() -> None:
    with HoldRegistry[tuple[str, int]]().hold((A,)) as hold:
        times = [hold.woken_at]
        for is_checked in (False, False, True):
            if is_checked:
                hold.woken = False
            hold.wake()
            times.append(hold.woken_at)
            await asyncio.sleep(0.002)
        none, first, again, later = times
        assert (none, again) == (None, first)
        assert later is not None
        assert first is not None
        assert later > first


async def test_hold_ends_for_its_first_reason() -> None:
    with HoldRegistry[tuple[str, int]]().hold((A,)) as hold:
        hold.end(WaitResult.DRAINING)
        hold.end(WaitResult.GONE)
        assert hold.ended is WaitResult.DRAINING
        await asyncio.wait_for(hold.wait(now() + 60), 5)


async def test_hold_that_is_cancelled_leaves_no_timer() -> None:
    registry = HoldRegistry[tuple[str, int]]()
    with registry.hold((A,)) as hold:
        task = asyncio.create_task(hold.wait(now() + 60))
        await waiting(registry)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert not hold.is_waiting
        hold.wake()


async def test_registry_that_drains_ends_all_holds_and_those_to_come() -> None:
    registry = HoldRegistry[tuple[str, int]]()
    with registry.hold((A,)) as hold:
        registry.drain()
        with registry.hold((B,)) as later:
            assert [each.ended for each in (hold, later)] == [WaitResult.DRAINING] * 2
