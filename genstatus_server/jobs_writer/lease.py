"""Keeps the lease of one job: prolongs it in the background, and makes the job's changes under it."""

import logging
import os
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Final

import pymongo
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from genstatus_server.jobs_writer import changes
from genstatus_server.jobs_writer.changes import Change, Lease
from genstatus_server.jobs_writer.errors import LeaseLost, is_passing, jittered

_log = logging.getLogger("genstatus_server.jobs_writer")

#: A worker relies on its lease for this share of its length only: a new primary's clock may be ahead of the last one's.
_SHARE_OF_LEASE: Final = 0.8
_HEARTBEATS_PER_LEASE: Final = 4
#: Seconds that one try may take at the least. A slow MongoDB answers later than a short lease lasts.
_SHORTEST_TRY: Final = 2.0
_RETRY_PAUSE: Final = 0.2


class LeaseKeeper:
    """Holds one job for the process that claimed it, by a heartbeat in a separate thread.

    On this process's monotonic clock, the lease runs from the start of the last acknowledged claim or heartbeat. So a
    worker without a connection knows when it has lost the job. `claimed_at` is the time at which the claim was sent.
    """

    def __init__(self, jobs: Collection[dict[str, Any]], job_id: int, lease: Lease, claimed_at: float) -> None:
        self._jobs, self._job_id, self._lease = jobs, job_id, lease
        self._process = os.getpid()
        self._is_lost = False
        seconds = lease.milliseconds / 1000
        self._trusted_seconds, self._pause = seconds * _SHARE_OF_LEASE, seconds / _HEARTBEATS_PER_LEASE
        self._ends = claimed_at + self._trusted_seconds
        # Its `put` may be called in a destructor, whatever this thread is at.
        self._orders: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._keep, name="lease-heartbeat", daemon=True).start()

    @property
    def is_of_this_process(self) -> bool:
        """False in a child that was forked while its parent held the job."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise `LeaseLost` where the job is not held, or not known to be held."""
        if self._is_lost or not self.is_of_this_process or time.monotonic() >= self._ends:
            raise self._lost()

    def write(self, change: Change) -> None:
        """Make `change`. Raises `LeaseLost`, and sends nothing once the lease has ended.

        Where MongoDB does not say whether it was made, the same change is sent again, until then.
        """
        self.check()
        is_made, is_repeated = None, False
        while is_made is None:
            try:
                is_made = self._change(change) or (is_repeated and self._change(changes.confirm_end(*self._held)))
            except PyMongoError as error:
                if not is_passing(error):
                    raise
                time.sleep(jittered(_RETRY_PAUSE))
                if time.monotonic() >= self._ends:
                    raise self._lost("; whether it was changed is not known") from error
                _log.warning("job %s: %s; trying again", self._job_id, type(error).__name__)
                is_repeated = True
        if not is_made:
            self._is_lost = True
            self.stop()
            raise self._lost("; whether it was changed is not known") if is_repeated else self._lost()

    def stop(self) -> None:
        """End the heartbeat. The lease is left to run out, unless a change has ended it."""
        self._orders.put(False)  # noqa: FBT003 - whether to give the job back

    def abandon(self) -> None:
        """Give the job back because its handle was dropped, so that no block can end the job any more."""
        if self.is_of_this_process:
            self._orders.put(True)  # noqa: FBT003 - whether to give the job back

    @property
    def _held(self) -> tuple[int, Lease]:
        return self._job_id, self._lease

    def _change(self, change: Change) -> bool:
        left = self._ends - time.monotonic()
        with pymongo.timeout(max(_SHORTEST_TRY, min(self._pause, left))):
            return bool(self._jobs.update_one(*change).matched_count)

    def _keep(self) -> None:
        while not self._is_lost:
            try:
                gives_back = self._orders.get(timeout=self._pause)
            except Empty:
                self.beat()
                continue
            if gives_back:
                self._give_back()
            return

    def beat(self) -> None:
        """Prolong the lease now."""
        began = time.monotonic()
        try:
            if self._change(changes.heartbeat(*self._held)):
                self._ends = began + self._trusted_seconds
            else:
                self._is_lost = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the next beat may succeed, and the lease's end is known
            # Its text may hold addresses and more; its name says enough.
            _log.warning("a lease was not prolonged: %s; trying again", type(error).__name__)

    def _give_back(self) -> None:
        _log.warning("job %s was claimed and dropped without an end; it is given back", self._job_id)
        try:
            self._change(changes.release(*self._held))
        except PyMongoError as error:
            _log.warning("job %s comes back when its lease has run out: %s", self._job_id, type(error).__name__)

    def _lost(self, what: str = "; nothing was changed") -> LeaseLost:
        return LeaseLost(f"job {self._job_id}: this worker does not hold its lease (any more){what}")
