"""The hold with a checker that the test makes up: what ends it, what does not, and what it is told."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from genstatus_server.hold.holds import (
    JITTER,
    LAST_CHECK_SECONDS,
    LAST_SIGNATURE_SECONDS,
    Hold,
    HoldRegistry,
    Outcome,
    WaitResult,
    deadline_of,
    hold_until_settled,
)

pytestmark = pytest.mark.skips_time

KEY = ("jobs", 1)


class Away(Exception):
    """It cannot be checked just now."""


@dataclass(frozen=True)
class Check:
    name: str = "waiting"
    is_settled: bool = False
    expires: float = math.inf
    is_confirmed: bool = True

    def unconfirmed(self) -> "Check":
        return replace(self, is_settled=False, is_confirmed=False)


WAITING = Check()
SETTLED = Check("settled", is_settled=True)
#: Without a file to sign for.
FAILED = Check("failed", is_settled=True)

Step = Check | Exception | Callable[[Hold], Check]


def now() -> float:
    return asyncio.get_running_loop().time()


class Checker:
    """Gives one step after the other, the last one again and again; `on_sign` happens during the first signatures."""

    def __init__(self, *steps: Step, on_sign: tuple[Callable[[Hold], object], ...] = ()) -> None:
        self._steps = list(steps)
        self._on_sign = list(on_sign)
        self.hold: Hold
        self.checks: list[float] = []
        self.signed: list[tuple[Check, float]] = []

    async def check(self, deadline: float) -> Check:
        self.checks.append(deadline)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        await asyncio.sleep(0)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, Check) else step(self.hold)

    async def sign(self, checked: Check, deadline: float) -> list[str | None]:
        self.signed.append((checked, deadline))
        await asyncio.sleep(0)
        if self._on_sign:
            self._on_sign.pop(0)(self.hold)
        return ["url" if checked == SETTLED else None]


class Held:
    """A hold under way."""

    def __init__(self, checker: Checker, seconds: float = 60) -> None:
        self.registry = HoldRegistry[Any]()
        self.checker = checker
        self.deadline = now() + seconds
        self.first_deadline = now() + 5
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> Outcome[Check]:
        with self.registry.hold((KEY,)) as hold:
            self.hold = self.checker.hold = hold
            return await hold_until_settled(
                hold, self.checker, deadline=self.deadline, first_deadline=self.first_deadline, retry_on=Away
            )

    async def waits(self) -> "Held":
        async with asyncio.timeout(60):
            while not self.registry.waiting():  # noqa: ASYNC110 - the loop's turns are what is waited for.
                await asyncio.sleep(0)
        return self

    async def outcome(self) -> Outcome[Check]:
        return await asyncio.wait_for(self.task, 5)


def wake(hold: Hold) -> None:
    hold.wake()


def settled_but_woken(hold: Hold) -> Check:
    hold.wake()
    return SETTLED


async def test_hold_answers_what_is_settled_at_the_first_check() -> None:
    held = Held(Checker(SETTLED))
    assert await held.outcome() == (SETTLED, ["url"], WaitResult.SETTLED)
    assert held.checker.checks == [held.first_deadline]
    assert not len(held.registry)


async def test_hold_checks_again_when_it_is_woken() -> None:
    held = await Held(Checker(WAITING, WAITING, SETTLED)).waits()
    held.registry.wake([KEY])
    await held.waits()
    assert not held.task.done()
    held.registry.wake([KEY])
    assert (await held.outcome()).result is WaitResult.SETTLED
    assert held.checker.checks[1:] == [held.deadline + LAST_CHECK_SECONDS] * 2


async def test_hold_checks_again_where_something_changed_during_the_check() -> None:
    held = Held(Checker(settled_but_woken, WAITING, SETTLED))
    await held.waits()
    assert not held.checker.signed
    held.hold.wake()
    assert (await held.outcome()).result is WaitResult.SETTLED


async def test_hold_checks_again_where_something_changed_during_the_signature() -> None:
    held = Held(Checker(SETTLED, WAITING, SETTLED, on_sign=(wake,)))
    await held.waits()
    assert [checked for checked, _ in held.checker.signed] == [SETTLED]
    held.hold.wake()
    assert await held.outcome() == (SETTLED, ["url"], WaitResult.SETTLED)
    assert len(held.checker.signed) == 2


async def test_hold_checks_again_where_a_failure_changed_during_the_signature() -> None:
    held = Held(Checker(FAILED, WAITING, SETTLED, on_sign=(wake,)))
    await held.waits()
    assert [checked for checked, _ in held.checker.signed] == [FAILED]
    held.hold.wake()
    assert await held.outcome() == (SETTLED, ["url"], WaitResult.SETTLED)


async def test_hold_ends_at_its_deadline_after_a_last_check() -> None:
    held = Held(Checker(WAITING), seconds=0.02)
    checked, urls, result = await held.outcome()
    assert (checked, urls, result) == (WAITING, [None], WaitResult.DEADLINE)
    assert now() >= held.deadline
    assert len(held.checker.checks) == 2
    assert held.deadline <= held.checker.checks[1] <= held.deadline + LAST_CHECK_SECONDS
    assert held.deadline + LAST_SIGNATURE_SECONDS <= held.checker.signed[0][1]


async def test_hold_that_is_settled_by_its_last_check_is_settled() -> None:
    assert (await Held(Checker(WAITING, SETTLED), seconds=0.02).outcome()).result is WaitResult.SETTLED


async def test_hold_woken_again_and_again_ends_at_its_deadline() -> None:
    def still(hold: Hold) -> Check:
        hold.wake()
        return WAITING

    assert (await Held(Checker(still), seconds=0.02).outcome()).result is WaitResult.DEADLINE


@pytest.mark.parametrize("reason", [WaitResult.DRAINING, WaitResult.GONE])
async def test_hold_ends_with_the_reason_it_is_given(reason: WaitResult) -> None:
    held = await Held(Checker(WAITING)).waits()
    held.hold.end(reason)
    outcome = await held.outcome()
    assert outcome.result is reason
    assert outcome.checked is WAITING
    assert held.checker.checks[-1] <= now() + LAST_CHECK_SECONDS, "not the hold's own deadline"
    assert outcome.urls == (None if reason is WaitResult.GONE else [None])


async def test_hold_that_drains_gives_what_is_settled_by_then() -> None:
    held = await Held(Checker(WAITING, SETTLED)).waits()
    held.hold.end(WaitResult.DRAINING)
    assert await held.outcome() == (SETTLED, ["url"], WaitResult.SETTLED)


async def test_draining_hold_checks_again_after_a_change() -> None:
    held = await Held(Checker(WAITING, SETTLED, WAITING, on_sign=(wake,))).waits()
    held.hold.end(WaitResult.DRAINING)
    assert (await held.outcome())[1:] == ([None], WaitResult.DRAINING)


async def test_hold_checks_again_when_the_permission_expires() -> None:
    held = Held(Checker(Check(expires=now() + 0.02), PermissionError("expired")))
    with pytest.raises(PermissionError):
        await held.outcome()
    assert not len(held.registry)


async def test_hold_raises_what_its_first_check_raises() -> None:
    with pytest.raises(Away):
        await Held(Checker(Away())).outcome()


async def test_hold_outlasts_checks_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Share:
        """Notes what it is multiplied with, and leaves it as it is."""

        def __mul__(self, pause: float) -> float:
            pauses.append(pause)
            return pause

    pauses: list[float] = []
    monkeypatch.setattr("genstatus_server.hold.holds._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("genstatus_server.hold.holds._LONGEST_PAUSE", 0.03)
    monkeypatch.setattr("random.uniform", lambda low, high: Share() if (low, high) == (0.5, 1) else None)
    held = await Held(Checker(WAITING, Away(), Away(), Away(), SETTLED)).waits()
    began = now()
    held.hold.wake()
    assert await held.outcome() == (SETTLED, ["url"], WaitResult.SETTLED)
    assert pauses == [0.01, 0.02, 0.03]
    assert now() - began >= sum(pauses) - 0.001


async def test_hold_ends_at_its_deadline_where_the_last_check_fails() -> None:
    checked, urls, result = await Held(Checker(WAITING, Away()), seconds=0.02).outcome()
    assert (checked, urls, result) == (WAITING.unconfirmed(), [None], WaitResult.DEADLINE)


async def test_hold_does_not_answer_an_unconfirmed_check() -> None:
    held = Held(Checker(settled_but_woken, Away()), seconds=0.05)
    checked, urls, result = await held.outcome()
    assert (checked, urls, result) == (SETTLED.unconfirmed(), [None], WaitResult.DEADLINE)


async def test_deadline_is_at_most_a_sixteenth_earlier_than_requested() -> None:
    deadlines = [deadline_of(100, 16) for _ in range(2000)]
    assert 116 - 16 * JITTER <= min(deadlines) < 115.2
    assert 115.8 < max(deadlines) <= 116
