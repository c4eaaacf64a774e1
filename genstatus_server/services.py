"""What the handlers work with: made by `app`, handed to every handler."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Final

from genstatus_server import snapshots
from genstatus_server.channel import ANSWER_SECONDS, Channel
from genstatus_server.errors import ServiceUnavailable
from genstatus_server.metrics import Metrics
from genstatus_server.mongodb import Database
from genstatus_server.presign import Presigner
from genstatus_server.settings import Settings
from genstatus_server.shared_answers import SharedAnswers
from genstatus_server.store import Store
from genstatus_server.waiters import JobWaiters
from genstatus_server.watcher import JobWatcher

#: Seconds for the parent to ask every process, of which one may hang.
_ALL_METRICS_SECONDS: Final = 2 * ANSWER_SECONDS


class InFlight:
    """Counts the requests whose answer is not on its way yet, so that a shutdown can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def begin(self) -> None:
        """A request has arrived."""
        self._count += 1
        self._empty.clear()

    def end(self, _: object = None) -> None:
        """An answer was handed to the system, or its connection is gone."""
        self._count -= 1
        if not self._count:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until there is none."""
        await self._empty.wait()


@dataclass
class Services:
    """The parts of one running server."""

    settings: Settings
    metrics: Metrics
    database: Database
    store: Store
    waiters: JobWaiters
    watcher: JobWatcher
    presigner: Presigner
    in_flight: InFlight = field(default_factory=InFlight)
    shared_answers: SharedAnswers = field(default_factory=SharedAnswers)
    draining: bool = False
    parent: Channel | None = None

    def share_metrics(self, parent: Channel | None) -> None:
        """Have `parent` told the metrics of this process, and ask it for those of all."""
        self.parent = parent
        if parent is not None:
            parent.answer = self._own_metrics

    async def all_metrics(self) -> str:
        """The metrics of all processes of this server, in Prometheus' text format.

        Raises `ServiceUnavailable` where they cannot be had: to Prometheus, those of one process alone would look like
        a server that began anew.
        """
        if self.parent is None:
            return snapshots.exposition(snapshots.take(self.metrics.registry))
        try:
            return await self.parent.ask(_ALL_METRICS_SECONDS)
        except (ConnectionError, TimeoutError) as cause:
            raise ServiceUnavailable from cause

    async def _own_metrics(self) -> str:
        return json.dumps(snapshots.take(self.metrics.registry))
