"""When the cache may be trusted, by what the change stream is known to have caught up with."""

import pytest

from genstatus_server.mongo.freshness import TRUSTED_SECONDS, Freshness
from tests.support.scripted import time_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr("genstatus_server.mongo.freshness.asyncio", clock)
    return clock


class Clock:
    """The loop's time. It stands in for the module `asyncio`."""

    now = 100.0

    def get_running_loop(self) -> "Clock":
        return self

    def time(self) -> float:
        return self.now


def current(clock: Clock, freshness: Freshness, at: float) -> bool:
    clock.now = at
    return freshness.is_current()


def test_freshness_is_not_current_before_a_stream_is_open(clock: Clock) -> None:
    freshness = Freshness()
    assert not freshness.is_current()
    assert freshness.position == 0


def test_freshness_lasts_two_seconds_after_catching_up(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    assert current(clock, freshness, 100 + TRUSTED_SECONDS - 0.01)
    assert not current(clock, freshness, 100 + TRUSTED_SECONDS)
    assert freshness.position == time_of(5)


def test_freshness_counts_from_the_request_of_an_answer(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    freshness.advance(None, requested_at=101, newest_time=time_of(6))
    assert current(clock, freshness, 101 + TRUSTED_SECONDS - 0.01)
    assert not current(clock, freshness, 101 + TRUSTED_SECONDS)


def test_freshness_is_not_prolonged_by_events_of_the_past(clock: Clock) -> None:
    """Heard lately is not caught up: there may be many more events to come."""
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    for second in range(101, 110):
        freshness.advance(time_of(6), requested_at=second, newest_time=time_of(1000))
    assert not current(clock, freshness, 103)
    assert freshness.position == time_of(6) - 1


def test_freshness_is_prolonged_by_events_behind_an_earlier_answer(clock: Clock) -> None:
    """A stream that is never idle: it is as new as the question whose answer named a time that it has passed."""
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    freshness.advance(time_of(6), requested_at=101, newest_time=time_of(7))
    freshness.advance(time_of(7), requested_at=102, newest_time=time_of(9))
    assert not current(clock, freshness, 102.5)  # Another event of second 7 may come.
    freshness.advance(time_of(8), requested_at=103, newest_time=time_of(9))
    assert current(clock, freshness, 102.9)
    assert not current(clock, freshness, 101 + TRUSTED_SECONDS)


def test_freshness_is_prolonged_by_events_right_behind_an_earlier_answer(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    freshness.advance(time_of(6), requested_at=101, newest_time=time_of(9) - 1)
    freshness.advance(time_of(9), requested_at=102, newest_time=time_of(12))
    assert freshness.position == time_of(9) - 1
    assert current(clock, freshness, 101 + TRUSTED_SECONDS - 0.01)


def test_freshness_position_of_an_idle_stream_advances(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    freshness.advance(None, requested_at=101, newest_time=time_of(7))
    assert freshness.position == time_of(5)
    freshness.advance(None, requested_at=102, newest_time=time_of(8))
    assert freshness.position == time_of(7)


def test_freshness_knows_what_was_delivered_beside_its_position(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    assert freshness.delivered == time_of(5)
    freshness.advance(time_of(9), requested_at=101, newest_time=time_of(12))
    assert (freshness.position, freshness.delivered) == (time_of(9) - 1, time_of(9))
    freshness.stop()
    assert freshness.delivered == time_of(9)
    freshness.advance(None, requested_at=102, newest_time=time_of(12))
    assert freshness.delivered == time_of(9)
    freshness.advance(None, requested_at=103, newest_time=time_of(12))
    assert freshness.delivered == time_of(12)


def test_freshness_position_never_goes_back(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(9), requested_at=100)
    freshness.advance(time_of(6), requested_at=101, newest_time=time_of(7))
    freshness.advance(None, requested_at=102, newest_time=time_of(7))
    assert freshness.position == time_of(9)


def test_freshness_ends_with_the_stream(clock: Clock) -> None:
    freshness = Freshness()
    freshness.start(time_of(5), requested_at=100)
    freshness.advance(None, requested_at=101, newest_time=time_of(7))
    freshness.stop()
    assert not current(clock, freshness, 101)
    assert freshness.position == time_of(5)
    freshness.advance(time_of(9), requested_at=102, newest_time=time_of(9))
    assert not current(clock, freshness, 102)  # What was answered before the gap proves nothing.
