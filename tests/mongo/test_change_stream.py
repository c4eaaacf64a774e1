"""The change stream's follower on a scripted connection: opening, order, gaps, lost tokens, a fault at every await."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from bson.errors import InvalidBSON
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from genstatus_server.hold.holds import HoldRegistry
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo import change_stream
from genstatus_server.mongo.change_stream import TOKEN_ATTEMPTS, ChangeStreamFollower, StreamState
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import CHANGE_STREAM_PIPELINE, Key
from genstatus_server.telemetry.metrics import Metrics
from tests.support.scripted import JOB_KEY, ScriptedConnection, event, time_of, update

pytestmark = pytest.mark.skips_time

TOKEN = {"after": 7}


class Documents:
    """Stands for the documents: notes what is read again, and which events the cache is told."""

    def __init__(self) -> None:
        self.cache = self
        self.read: list[tuple[list[Key], bool]] = []
        self.applied: list[int] = []
        self.errors: list[Exception] = []
        self.concerned: Callable[[Any], Iterable[Key] | None] = lambda _: [JOB_KEY]

    async def read_again(self, keys: Iterable[Key], *, restart: bool = False) -> None:
        self.read.append((list(keys), restart))
        if self.errors:
            raise self.errors.pop(0)

    def apply(self, told: Any) -> Iterable[Key] | None:
        self.applied.append(told["clusterTime"].time)  # Fails where it is none, as the cache does.
        return self.concerned(told)


class Following:
    """A follower that runs, and everything around it."""

    def __init__(self) -> None:
        self.connection, self.documents = ScriptedConnection(now=5), Documents()
        self.freshness, self.holds, self.metrics = Freshness(), HoldRegistry[Key](), Metrics()
        connection: Any = self.connection
        documents: Any = self.documents
        self.follower = ChangeStreamFollower(connection, documents, self.freshness, self.holds, self.metrics)

    async def asked(self, streams: int = 1) -> None:
        """Wait until the newest of so many streams is asked for its next answer."""
        await until(lambda: len(self.connection.streams) >= streams and self.connection.stream.is_asked)

    async def send(self, *events: Any, newest_time: int = 5) -> None:
        stream = self.connection.stream
        stream.send(*events, requested_at=now(), newest_time=time_of(newest_time))
        await until(lambda: stream.is_asked or self.connection.stream is not stream)


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the loop's turns are what is waited for.
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_stream, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(change_stream, "POLLING_SECONDS", 0.001)


@pytest.fixture(autouse=True)
def records() -> Any:
    with structlog.testing.capture_logs() as captured:
        yield captured


@asynccontextmanager
async def following(*, errors: dict[str, list[BaseException]] | None = None) -> AsyncIterator[Following]:
    made = Following()
    made.connection.errors = errors or {}
    task = asyncio.create_task(made.follower.follow())
    try:
        yield made
        assert not task.done(), "nothing but the shutdown ends the follower"
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=60)
        assert task.done(), "the shutdown ends the follower"


async def test_follower_opens_behind_a_snapshot_and_reads_what_is_held() -> None:
    async with following() as made:
        await made.asked()
        assert made.connection.opened == [(None, time_of(5))]
        assert made.documents.read == [([], True)]
        assert made.freshness.is_current()
        assert made.freshness.position == time_of(5)
        assert (made.follower.state, made.follower.reached.is_set()) == (StreamState.LIVE, True)


async def test_follower_applies_events_in_order_before_it_wakes() -> None:
    async with following() as made:
        await made.asked()
        with made.holds.hold((JOB_KEY,)) as hold:
            made.documents.concerned = lambda told: [] if told["clusterTime"].time < 8 else [JOB_KEY]
            await made.send(update(6, {}), update(7, {}))
            before = hold.woken
            await made.send(update(8, {}), update(9, {}))
            assert (before, hold.woken) == (False, True)
        assert made.documents.applied == [6, 7, 8, 9]
        assert made.freshness.position == time_of(9) - 1


async def test_follower_rests_only_where_changes_come_quickly() -> None:
    async with following() as made:
        await made.asked()
        for number in range(100):
            await asyncio.sleep(1.01 / change_stream.BUSY_RATE)
            await made.send(update(6 + number, {}))
        assert set(made.connection.stream.rests) == {0}
        for number in range(300):
            await asyncio.sleep(0.9 / change_stream.BUSY_RATE)
            await made.send(update(200 + number, {}))
        assert made.connection.stream.rests[-1] > 0
        await asyncio.sleep(2 * change_stream.RATE_SECONDS)
        await made.send(update(600, {}))
        assert made.connection.stream.rests[-1] == 0


async def test_follower_rests_after_changes_that_nobody_waits_for_longer_without_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change_stream, "RATE_SECONDS", 0)
    monkeypatch.setattr(change_stream, "BUSY_RATE", -1)
    async with following() as made:
        await made.asked()
        await made.send(update(6, {}))
        with made.holds.hold((JOB_KEY,)):
            await made.send(update(7, {}))
            await made.send()
            made.documents.concerned = lambda _: []
            await made.send(update(8, {}))
            made.documents.concerned = lambda _: None
            await made.send(update(9, {}))
        await made.send(update(10, {}))
        rest, longer = change_stream.REST_SECONDS, change_stream.REST_SECONDS_WITHOUT_HOLDS
        assert made.connection.stream.rests == [0, longer, 0, 0, rest, 0, longer]


async def test_follower_yields_to_woken_holds_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    sleep = asyncio.sleep

    async def recorded(delay: float) -> None:
        delays.append(delay)
        await sleep(0)

    async with following() as made:
        await made.asked()
        monkeypatch.setattr(asyncio, "sleep", recorded)
        with made.holds.hold((JOB_KEY,)):
            await made.send(update(6, {}))
        monkeypatch.undo()
    assert set(delays) == {0}


async def test_follower_wakes_everybody_for_an_event_that_may_concern_all() -> None:
    async with following() as made:
        await made.asked()
        made.documents.concerned = lambda told: None if told["operationType"] == "drop" else [JOB_KEY]
        with made.holds.hold((("users", 1),)) as hold:
            await made.send(update(6, {}))
            before = hold.woken
            await made.send(update(7, {}), event("drop", "jobs", None, 8), update(9, {}))
            assert (before, hold.woken) == (False, True)


async def test_follower_trusts_only_proof_that_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with following() as made:
        await made.asked()
        advanced: list[int | None] = []
        monkeypatch.setattr(made.freshness, "advance", lambda newest, *_: advanced.append(newest))
        await made.send()
        await made.send(update(6, {}))
        assert advanced == [None, time_of(6)]


async def test_follower_resumes_behind_what_was_applied() -> None:
    async with following() as made:
        await made.asked()
        await made.send(update(7, {}))
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
        assert made.connection.opened[1][0] == TOKEN
        # What is held was read in between, but nothing was dropped: the stream tells what was missed.
        assert [restart for _, restart in made.documents.read] == [True, False]
        assert not made.freshness.is_current()
        await made.send()
        assert made.freshness.is_current()


@pytest.mark.parametrize("attempt", range(1, TOKEN_ATTEMPTS + 1))
async def test_follower_drops_its_token_after_failed_attempts_to_resume(attempt: int) -> None:
    async with following() as made:
        await made.asked()
        await made.send(update(7, {}))
        made.connection.raise_in("open_change_stream", *[AutoReconnect("scans for too long")] * attempt)
        made.connection.stream.fail(AutoReconnect("scans for too long"))
        await made.asked(streams=2)
        expected = TOKEN if attempt < TOKEN_ATTEMPTS else None
        assert made.connection.opened[1][0] == expected
        assert made.documents.read[-1][1] is (expected is None)


async def test_follower_keeps_a_token_that_advances() -> None:
    async with following() as made:
        await made.asked()
        for attempt in range(3 * TOKEN_ATTEMPTS):
            await made.send(update(7 + attempt, {}))
            made.connection.stream.fail(AutoReconnect("gone"))
            await made.asked(streams=2 + attempt)
            assert made.connection.opened[-1][0] == {"after": 7 + attempt}


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (AutoReconnect("away"), True),
        (ServiceUnavailable(), True),
        (OperationFailure("not authorized", 13), True),
        (OperationFailure("no such user", 18), True),
        (ServerSelectionTimeoutError("127.0.0.1:1: Authentication failed., Timeout: 1.0s"), True),
        (OperationFailure("history lost", 286), False),
        (OperationFailure("too large", 10334), False),
        (RuntimeError("a defect"), False),
    ],
)
async def test_follower_keeps_its_token_only_after_temporary_errors(error: Exception, *, is_kept: bool) -> None:
    async with following() as made:
        await made.asked()
        await made.send(update(7, {}))
        made.connection.stream.fail(error)
        await made.asked(streams=2)
        assert made.connection.opened[1][0] == (TOKEN if is_kept else None)
        is_logged_out = getattr(error, "code", 0) in {13, 18} or "Authentication" in str(error)
        assert made.connection.renewed == is_logged_out


async def test_follower_goes_on_behind_an_invalidate(records: list[Any]) -> None:
    async with following() as made:
        await made.asked()
        made.connection.stream.is_last = True
        await made.send(update(7, {}))
        await made.asked(streams=2)
        assert made.connection.opened[1][0] == TOKEN
        assert "the stream has ended" in [each.get("cause") for each in records]


@pytest.mark.parametrize("place", ["views_among", "snapshot_time", "open_change_stream", "close"])
@pytest.mark.parametrize(
    "error", [AutoReconnect("away"), OperationFailure("no", 1), RuntimeError("a defect"), KeyError(1)]
)
async def test_follower_survives_an_error_at_every_await(place: str, error: Exception) -> None:
    errors: dict[str, list[BaseException]] = {place: [error, error]}
    async with following(errors=errors) as made:
        await made.asked(streams=1)
        if place == "close":
            made.connection.stream.fail(AutoReconnect("gone"))
            await made.asked(streams=2)
        await made.send(update(9, {}))
        assert made.documents.applied == [9]
        assert made.follower.state is StreamState.LIVE


@pytest.mark.parametrize("error", [ServiceUnavailable(), RuntimeError("a defect")])
async def test_follower_survives_an_error_in_its_recovery(error: Exception) -> None:
    async with following() as made:
        await made.asked()
        made.documents.errors = [error]
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
        assert made.follower.state is StreamState.LIVE


async def test_follower_ends_where_closing_fails_as_it_is_cancelled() -> None:
    async with following() as made:
        await made.asked()
        made.connection.raise_in("close", AutoReconnect("gone"))


async def test_follower_survives_an_event_that_cannot_be_applied() -> None:
    async with following() as made:
        await made.asked()
        await made.send({**update(7, {}), "clusterTime": "no time"})
        await made.asked(streams=2)
        assert made.connection.opened[1][0] is None  # Behind the token it would come again.


async def test_follower_reads_what_is_held_while_it_cannot_open() -> None:
    async with following(errors={"open_change_stream": [AutoReconnect("away")] * 1000}) as made:
        with made.holds.hold((JOB_KEY,)):
            await until(lambda: ([JOB_KEY], False) in made.documents.read)
        assert made.follower.state is StreamState.DOWN
        assert not made.freshness.is_current()
        assert not made.follower.reached.is_set()


async def test_follower_names_the_collections_that_are_views() -> None:
    async with following() as made:
        made.connection.views = ["jobs"]
        await until(lambda: made.follower.views == ["jobs"])
        assert made.follower.state is StreamState.DOWN
        assert not made.connection.opened
        made.connection.views = []
        await made.asked()
        assert (made.follower.state, made.follower.views) == (StreamState.LIVE, [])


async def test_follower_notices_a_collection_that_becomes_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_stream, "VIEW_CHECK_SECONDS", 0)
    async with following() as made:
        await made.asked()
        made.connection.views = ["users"]
        made.connection.stream.send(requested_at=now(), newest_time=time_of(5))
        await until(lambda: made.follower.state is StreamState.DOWN)


@pytest.mark.parametrize("is_away", [False, True])
async def test_follower_polls_where_there_are_no_change_streams(records: list[Any], *, is_away: bool) -> None:
    error = OperationFailure("no replica set", 40573)
    async with following(errors={"open_change_stream": [error] * 1000}) as made:
        made.documents.errors = [ServiceUnavailable()] * 1000 if is_away else []
        with made.holds.hold((JOB_KEY,)):
            await until(lambda: made.documents.read.count(([JOB_KEY], False)) > 2)
        assert made.follower.state is (StreamState.DOWN if is_away else StreamState.POLLING)
        assert not made.freshness.is_current()
        (record,) = records
        assert (record["event"], record["log_level"]) == ("change_stream_unsupported", "warning")
        assert "no replica set" in record["hint"]


def named(records: list[Any], name: str) -> list[Any]:
    return [each for each in records if each["event"] == name]


async def test_follower_says_when_its_stream_opens_and_ends(records: list[Any]) -> None:
    async with following() as made:
        await made.asked()
        await made.send(update(7, {}))
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
    opened = {"event": "change_stream_open", "log_level": "info"}
    assert named(records, "change_stream_open") == [{**opened, "resumed": False}, {**opened, "resumed": True}]
    (down,) = named(records, "change_stream_down")
    assert (down["cause"], down["log_level"]) == ("AutoReconnect: gone", "warning")
    assert not named(records, "change_stream_defect")


@pytest.mark.parametrize(
    ("error", "is_defect"),
    [(RuntimeError("a defect"), True), (OperationFailure("no", 1), False), (InvalidBSON("no"), False)],
)
async def test_follower_shows_the_traceback_of_a_defect_only(
    records: list[Any], error: Exception, *, is_defect: bool
) -> None:
    async with following() as made:
        await made.asked()
        made.connection.stream.fail(error)
        await made.asked(streams=2)
    defect = {"event": "change_stream_defect", "log_level": "warning", "cause": "RuntimeError: a defect"}
    assert named(records, "change_stream_defect") == ([{**defect, "exc_info": error}] if is_defect else [])


async def test_follower_names_the_views_in_its_record(records: list[Any]) -> None:
    async with following() as made:
        made.connection.views = ["jobs", "users"]
        await until(lambda: named(records, "change_stream_down"))
    cause = named(records, "change_stream_down")[0]["cause"]
    assert cause == "ViewFound: must be collections, but are views: jobs, users"
    assert set(made.connection.checked) == {"jobs", "submissions", "users", "sessions"}
    assert not named(records, "change_stream_defect")


async def test_follower_says_an_error_in_its_recovery(records: list[Any]) -> None:
    async with following() as made:
        await made.asked()
        made.documents.errors = [KeyError("a defect")]
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
    (defect,) = named(records, "change_stream_defect")
    assert "KeyError" in defect["exception"]


async def test_follower_begins_down_and_with_its_pipeline() -> None:
    made = Following()
    assert (made.follower.state, made.follower.views) == (StreamState.DOWN, [])
    async with following() as made:
        await made.asked()
        assert made.connection.pipelines == [CHANGE_STREAM_PIPELINE]


async def test_follower_takes_no_snapshot_where_it_resumes() -> None:
    async with following() as made:
        await made.asked()
        await made.send(update(7, {}))
        made.connection.raise_in("snapshot_time", AutoReconnect("it is not to be called"))
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
        assert made.connection.opened[1] == (TOKEN, 0)


@pytest.mark.parametrize(("seconds", "expected"), [(-5, 5), (0.25, 0), (5, 0)])
async def test_follower_measures_how_late_an_event_is(seconds: float, expected: int) -> None:
    async with following() as made:
        await made.asked()
        happened = datetime.now(UTC) + timedelta(seconds=seconds)
        await made.send({**update(6, {}), "wallTime": happened}, update(7, {}))
        value = made.metrics.registry.get_sample_value
        assert value("genstatus_change_stream_lag_seconds_count") == 1
        assert int(value("genstatus_change_stream_lag_seconds_sum") or 0) == expected


async def test_follower_pauses_longer_each_time_up_to_a_limit(
    records: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_stream, "LONGEST_PAUSE", 2.0)
    pauses = slept(monkeypatch)
    async with following(errors={"open_change_stream": [AutoReconnect("away")] * 8}) as made:
        await made.asked()
    longest = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    said = [each["next_attempt_seconds"] for each in named(records, "change_stream_down")]
    assert said == [round(pause, 2) for pause in pauses]


@pytest.mark.parametrize(("stood", "longest"), [(4.9, 0.8), (5.0, 0.1)])
async def test_follower_resets_its_pause_after_a_stable_stream(
    monkeypatch: pytest.MonkeyPatch, stood: float, longest: float
) -> None:
    monkeypatch.setattr(change_stream, "LONGEST_PAUSE", 2.0)
    pauses = slept(monkeypatch)
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(change_stream, "_now", lambda: clock.now)
    async with following(errors={"open_change_stream": [AutoReconnect("away")] * 3}) as made:
        await made.asked()
        clock.now += stood
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
        made.connection.raise_in("open_change_stream", AutoReconnect("away"))
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=3)
    assert longest / 2 <= pauses[3] <= longest
    assert longest <= pauses[4] <= 2 * longest
    assert len(pauses) == 6


def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which take no time."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return pauses


async def view_checks_after(monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], *events: Any) -> list[int]:
    """How often views were checked for, after `events` and each of these times."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(change_stream, "_now", lambda: clock.now)
    checks = []
    async with following() as made:
        await made.asked()
        if events:
            await made.send(*events)
        for each in seconds:
            clock.now += each
            await made.send()
            checks.append(made.connection.view_checks)
    return checks


async def test_follower_checks_for_views_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = (change_stream.VIEW_CHECK_SECONDS, 0.1, change_stream.VIEW_CHECK_SECONDS, 0.1, 1)
    assert await view_checks_after(monkeypatch, seconds) == [1, 2, 2, 3, 3]


async def test_follower_checks_for_views_often_after_a_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, drop = (0.6, 0.6, change_stream.UNSETTLED_SECONDS, 0.6, 0.6), event("drop", "sessions", None, 8)
    assert await view_checks_after(monkeypatch, seconds, drop) == [2, 3, 4, 4, 4]


async def test_follower_counts_how_often_it_opens_again() -> None:
    async with following() as made:
        await made.asked()
        value = made.metrics.registry.get_sample_value
        assert (value("genstatus_change_stream_up"), value("genstatus_change_stream_reopens_total")) == (1, 0)
        made.connection.stream.fail(AutoReconnect("gone"))
        await made.asked(streams=2)
        assert (value("genstatus_change_stream_up"), value("genstatus_change_stream_reopens_total")) == (1, 1)
