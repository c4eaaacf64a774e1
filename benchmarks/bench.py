"""What every measurement is given: how much to do, where, and on which cores."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.database import Database
from benchmarks.machine import Cores


@dataclass(frozen=True)
class Scale:
    """How much is done. Durations are in seconds."""

    name: str
    rounds: int
    poll_seconds: int  #: of one load by wrk
    idle_seconds: float  #: during which an idle server is watched
    holds: int  #: on distinct jobs, idle
    wake_holds: int  #: on distinct jobs that finish
    wake_rate: int  #: of those, a second
    rates: tuple[int, ...]  #: finished jobs a second that are tried, from low to high
    rate_seconds: int  #: for which each of them is kept up
    fan_out: int  #: holds on one job
    peer_holds: int  #: holds at which the peers are compared: one of them has a change stream for each
    cold: int  #: requests whose documents are not cached
    burst: int  #: of those at once, each of another session
    change_rates: tuple[int, ...]  #: changes a second that nobody waits for
    growth_holds: tuple[int, ...]  #: holds, and change streams on one mongod, of the picture
    growth_streams: tuple[int, ...]


SMOKE: Final = Scale(
    name="smoke",
    rounds=1,
    poll_seconds=1,
    idle_seconds=1,
    holds=200,
    wake_holds=50,
    wake_rate=50,
    rates=(50,),
    rate_seconds=1,
    fan_out=200,
    peer_holds=10,
    cold=30,
    burst=50,
    change_rates=(50,),
    growth_holds=(100,),
    growth_streams=(1,),
)
QUICK: Final = Scale(
    name="quick",
    rounds=3,
    poll_seconds=2,
    idle_seconds=2,
    holds=10_000,
    wake_holds=1_000,
    wake_rate=200,
    rates=(200, 400, 600, 800),
    rate_seconds=2,
    fan_out=5_000,
    peer_holds=100,
    cold=200,
    burst=1_000,
    change_rates=(100, 500),
    growth_holds=(1_000, 5_000),
    growth_streams=(1, 2, 4),
)
FULL: Final = Scale(
    name="full",
    rounds=3,
    poll_seconds=4,
    idle_seconds=5,
    holds=10_000,
    wake_holds=1_000,
    wake_rate=200,
    rates=(400, 600, 800, 1000),
    rate_seconds=3,
    fan_out=5_000,
    peer_holds=300,
    cold=300,
    burst=1_000,
    change_rates=(100, 500, 1000),
    growth_holds=(1_000, 5_000, 10_000, 20_000),
    growth_streams=(1, 2, 4, 8),
)


@dataclass(frozen=True)
class Bench:
    """One run."""

    scale: Scale
    cores: Cores
    folder: Path
    database: Database
    against: Path | None = None  #: a checkout whose server is measured, too

    def rounds(self, name: str) -> Iterator[int]:
        """The rounds of a measurement; within each, everything that is compared has its turn."""
        for number in range(self.scale.rounds):
            say(f"{name}: round {number + 1} of {self.scale.rounds}")
            yield number


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, flush=True)  # noqa: T201 - it is a command
