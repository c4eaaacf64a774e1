"""Every order of what can happen to a hold, up to a depth: real hold, registry, loader, cache and stream follower.

The loop's time is the test's, and nothing happens but what the test does, one step after the other. Each order is run
from its beginning. `INTERLEAVING_DEPTH` sets the number of steps behind each beginning.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
import structlog

from genstatus_server.hold.holds import HoldRegistry, Outcome, WaitResult, hold_until_settled
from genstatus_server.model.access import Login, User
from genstatus_server.model.errors import LoginRequired, ServiceUnavailable
from genstatus_server.model.jobs import Job
from genstatus_server.mongo.cache import DocumentCache
from genstatus_server.mongo.change_stream import ChangeStreamFollower
from genstatus_server.mongo.documents import Documents
from genstatus_server.mongo.freshness import TRUSTED_SECONDS, Freshness
from genstatus_server.telemetry.metrics import Metrics
from genstatus_server.web.check import StatusCheck, StatusChecker
from tests.support.scripted import (
    FINISHED,
    HASH,
    JOB,
    JOB_KEY,
    SESSION,
    SESSION_KEY,
    SUBMISSION,
    SUBMISSION_KEY,
    USER,
    USER_KEY,
    Oplog,
    ScriptedConnection,
    ScriptedReader,
    time_of,
)

if TYPE_CHECKING:
    from datetime import datetime

pytestmark = pytest.mark.one_python

DEPTH: Final = int(os.environ.get("INTERLEAVING_DEPTH", "4"))
#: Seconds of the hold; far more than any step takes.
HOLD_SECONDS: Final = 1000.0
#: Seconds that a hold pauses at most before it tries again.
_LONGEST_PAUSE: Final = 4.0
#: Turns of the loop within which all that a step causes has happened.
TURNS: Final = 9


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only when the test says so."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def spin(self) -> None:
        """Let everything happen that is due."""
        for _ in range(TURNS):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass
class Answer:
    """What the hold ended with, the loop's time at its end, and the number of events that had arrived by then."""

    outcome: Outcome[StatusCheck] | Exception
    at: float
    told: int

    @property
    def status(self) -> str:
        if isinstance(self.outcome, Exception):
            return type(self.outcome).__name__
        return self.outcome.checked.jobs[0].generation_status.value

    @property
    def is_confirmed(self) -> bool:
        """Whether it could be checked once more: not where a read did not end in time."""
        return not isinstance(self.outcome, ServiceUnavailable) and (
            isinstance(self.outcome, Exception) or self.outcome.checked.is_confirmed
        )

    @property
    def result(self) -> WaitResult | None:
        return None if isinstance(self.outcome, Exception) else self.outcome.result


class Signer:
    """Signs at once, but lets others have a turn."""

    async def signable(self, job: Job) -> Job:
        return job

    async def presigned_url(self, job: Job) -> str:
        await asyncio.sleep(0)
        return f"https://s3/{job.key}"


class World:
    """One hold on one job, and everything that it depends on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        documents: dict[Any, Any] = {JOB_KEY: JOB, SESSION_KEY: SESSION, SUBMISSION_KEY: SUBMISSION, USER_KEY: USER}
        self.oplog = Oplog(documents)
        self.reader = reader = ScriptedReader(self.oplog)
        self.connection = connection = ScriptedConnection()
        self.holds: HoldRegistry[Any] = HoldRegistry()
        self.freshness, metrics = Freshness(), _METRICS
        self.cache = DocumentCache(100, self.freshness, self.holds)
        self.documents = Documents(cast("Any", reader), self.cache, self.holds)
        self.follower = ChangeStreamFollower(
            cast("Any", connection), self.documents, self.freshness, self.holds, metrics
        )
        self.told = 0
        self.is_catching_up, self.is_behind = True, False
        self.is_one_transaction = False
        user = User(11, website_admin=False, cgac_codes=frozenset(), frec_codes=frozenset())
        self.login = Login(HASH, user, cast("datetime", SESSION["expires_at"]))
        self.committed: dict[str, float] = {}
        self.order: list[str] = []
        self.answer: Answer | None = None
        self.following = loop.create_task(self.follower.follow())
        loop.spin()
        self.request = loop.create_task(self._hold())
        loop.spin()

    async def _hold(self) -> None:
        services: Any = SimpleNamespace(documents=self.documents, presigner=Signer())
        params: Any = SimpleNamespace(submission_id=1, file_types=("D1",))
        checker = StatusChecker(services, HASH, params, lambda jobs: jobs[0].is_settled)
        checker.login = self.login
        deadline = self.loop.time() + HOLD_SECONDS
        outcome: Outcome[StatusCheck] | Exception
        with self.holds.hold((*checker.keys, USER_KEY)) as self.hold:
            try:
                outcome = await hold_until_settled(
                    self.hold, checker, deadline=deadline, first_deadline=deadline, retry_on=ServiceUnavailable
                )
            except (LoginRequired, ServiceUnavailable) as error:
                outcome = error
        self.answer = Answer(outcome, self.loop.time(), self.told)

    def commit(self, name: str) -> None:
        self.committed[name] = self.loop.time()
        self.order.append(name)
        if name == "finish":
            self.oplog.set(JOB_KEY, FINISHED)
        elif name == "anew":
            self.oplog.set(JOB_KEY, {"status": "waiting", "upload": None})
        else:
            self.oplog.delete(SESSION_KEY)
        self.connection.now = self.oplog.now

    def commit_together(self) -> None:
        """The job finishes and the session ends in one transaction; each of its two events arrives by itself."""
        self.is_one_transaction = True
        self.oplog.transaction(lambda: self.commit("finish"), lambda: self.commit("revoke"))

    def tell_next_event(self) -> None:
        event = self.oplog.events[self.told]
        self.told, self.is_catching_up = self.told + 1, True
        self.connection.stream.send(event, requested_at=self.loop.time(), newest_time=time_of(self.oplog.now))

    def catch_up(self) -> None:
        self.is_catching_up = self.is_behind = False  # Once more would change nothing.
        self.connection.stream.send(requested_at=self.loop.time(), newest_time=time_of(self.oplog.now))

    def pass_time(self, seconds: float) -> None:
        self.is_catching_up = self.is_behind = True
        self.loop.now += seconds

    def steps(self) -> dict[str, Callable[[], None]]:
        """Everything that can happen next, by name."""
        stream, events = self.connection.stream, len(self.oplog.events)
        caught_up = self.told == events
        possible = {
            "read begins": (self.reader.waiting, self.reader.begin),
            "read ends": (self.reader.begun, self.reader.end),
            "job finishes": ("finish" not in self.committed, lambda: self.commit("finish")),
            "job begins anew": (
                "finish" in self.committed and "anew" not in self.committed,
                lambda: self.commit("anew"),
            ),
            "both in one transaction": (not self.committed, self.commit_together),
            "session ends": ("revoke" not in self.committed, lambda: self.commit("revoke")),
            "event arrives": (stream.is_asked and not caught_up, self.tell_next_event),
            "stream catches up": (stream.is_asked and caught_up and self.is_catching_up, self.catch_up),
            "stream falls behind": (not self.is_behind, lambda: self.pass_time(TRUSTED_SECONDS + 0.5)),
            "deadline": (True, lambda: self.pass_time(HOLD_SECONDS)),
            "client leaves": (True, lambda: self.hold.end(WaitResult.GONE)),
            "server drains": (True, self.holds.drain),
        }
        return {name: step for name, (is_possible, step) in possible.items() if is_possible}

    def settle(self) -> None:
        """MongoDB and the stream do what they have to, without another fault, until nothing is left to do.

        A hold whose check has failed in between tries again after a pause.
        """
        pauses = 3
        while pauses:
            if self.reader.waiting:
                self.reader.begin()
            elif self.reader.begun:
                self.reader.end()
            elif self.connection.stream.is_asked and self.told < len(self.oplog.events):
                self.tell_next_event()
            else:
                pauses -= 1
                self.pass_time(_LONGEST_PAUSE)
            self.loop.spin()

    def close(self) -> None:
        tasks = [self.following, self.request, self.loop.create_task(self.documents.close())]
        self.following.cancel()
        self.request.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()


_METRICS: Final = Metrics()


def run(order: Sequence[str]) -> list[str]:
    """Run one order and check it. Returns what can happen next, nothing where the hold has ended."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    world = World(loop)
    try:
        for name in order:
            world.steps()[name]()
            loop.spin()
        following = [] if world.answer is not None else list(world.steps())
        world.settle()
        check(world, order)
        return following
    finally:
        world.close()
        asyncio.set_event_loop(None)


def check(world: World, order: Sequence[str]) -> None:
    """What must be true whatever has happened in whichever order."""
    answer, committed = world.answer, world.committed
    has_revocation = "revoke" in committed
    if answer is None:
        # Never a missed wake: it waits only for what is still waiting, and for somebody who may know.
        assert not has_revocation, order
        assert "finish" not in committed or "anew" in committed, order
        assert len(world.holds) == 1, order
        return
    assert len(world.holds) == 0, order
    assert not world.holds.keys(), order
    if answer.result is WaitResult.GONE:
        return
    if answer.status == "finished":
        assert "finish" in committed, order
        # Never to somebody whose access had ended before the job was settled,
        assert not has_revocation or world.order.index("finish") < world.order.index("revoke"), order
        # nor at once with it,
        assert not world.is_one_transaction, order
        # nor after the server was told of it.
        told = world.order[: answer.told]
        assert "revoke" not in told, order
        # Never a settled answer that the server was told is over.
        assert "anew" not in told, order
    if has_revocation and answer.is_confirmed and answer.status != "LoginRequired":
        assert answer.at - committed["revoke"] <= TRUSTED_SECONDS + 0.5, order  # The step of "stream falls behind".


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize(
    "beginning",
    [
        (),
        ("read begins", "read ends"),
        ("read begins", "job finishes", "read ends"),
        ("read begins", "read ends", "job finishes", "event arrives"),
        ("stream falls behind", "session ends", "read begins"),
        ("read begins", "read ends", "both in one transaction", "event arrives"),
    ],
    ids=lambda beginning: ", ".join(beginning) or "from the request on",
)
def test_hold_answers_correctly_in_every_order_of_events(beginning: tuple[str, ...]) -> None:
    pending = [beginning]
    while pending:
        order = pending.pop()
        following = run(order)
        if len(order) < len(beginning) + DEPTH:
            pending += [(*order, name) for name in following]
