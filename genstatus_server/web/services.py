"""What the handlers work with: made by `app`, handed to every handler."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from genstatus_server.hold.registry import HoldRegistry
from genstatus_server.mongo.change_stream import ChangeStreamFollower
from genstatus_server.mongo.client import Connection
from genstatus_server.mongo.documents import Documents
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import Key
from genstatus_server.s3.presigner import Presigner
from genstatus_server.settings import Settings
from genstatus_server.telemetry.metrics import Metrics


class InFlight:
    """Counts the requests whose answer is not on its way yet, so that a shutdown can wait for them."""

    def __init__(self) -> None:
        #: How many there are.
        self.count = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def begin(self) -> None:
        """A request has arrived."""
        self.count += 1
        self._empty.clear()

    def end(self, _: object = None) -> None:
        """An answer was handed to the system, or its connection is gone."""
        self.count -= 1
        if not self.count:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until there is none."""
        await self._empty.wait()


@dataclass
class Services:
    """The parts of one running server."""

    settings: Settings
    metrics: Metrics
    connection: Connection
    freshness: Freshness
    documents: Documents
    holds: HoldRegistry[Key]
    follower: ChangeStreamFollower
    presigner: Presigner
    #: The metrics of the whole server, in Prometheus' text format. Raises `ServiceUnavailable`.
    collect_metrics: Callable[[], Awaitable[str]]
    in_flight: InFlight = field(default_factory=InFlight)
    draining: bool = False
