"""Wakes idle workers when a job waits that they can do: by a change stream, and by polling where there is none."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from genstatus_server.jobs_writer.errors import jittered
from genstatus_server.model.jobs import FILE_TYPES

_log = logging.getLogger("genstatus_server.jobs_writer")

#: MongoDB moves this before its lookup of the job, so that only these changes cost one.
_BEGINS_TO_WAIT: Final[dict[str, Any]] = {
    "$match": {
        "$or": [
            {"operationType": {"$in": ["insert", "replace"]}},
            {"updateDescription.updatedFields.status": "waiting"},
        ]
    }
}
#: Milliseconds that MongoDB may hold a request for changes: an idle worker asks so often.
_AWAIT_MS: Final = 20_000
#: Seconds between two claims of a worker that a change stream wakes: leases run out without a change.
_LONGEST_IDLE: Final = 30.0
_REOPEN_SECONDS: Final = 2.0
#: The most seconds that an idle worker sleeps at a time before it looks for a new event.
_SLICE: Final = 0.1


class JobWatch:
    """Counts the events that set a job of `file_types` to `waiting`. `is_live` is True while the change stream is open.

    MongoDB looks up each job that begins to wait, because an update does not tell the file type. One that has been
    claimed by then wakes nobody.
    """

    def __init__(self, jobs: Collection[dict[str, Any]], file_types: Sequence[str] | None = None) -> None:
        self.count, self.is_live = 0, False
        self._jobs = jobs
        types = list(FILE_TYPES if file_types is None else file_types)
        mine = {"$match": {"fullDocument.status": "waiting", "fullDocument.file_type": {"$in": types}}}
        self._pipeline = [_BEGINS_TO_WAIT, mine, {"$project": {"_id": 1}}]
        self._stopped = threading.Event()
        timeout = jobs.database.client.options.timeout
        self._await_ms = _AWAIT_MS if timeout is None else min(_AWAIT_MS, round(timeout * 500))
        threading.Thread(target=self._run, name="jobs-watch", daemon=True).start()

    def stop(self) -> None:
        """End the thread, at the latest when MongoDB next answers. It keeps no program from ending."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except OperationFailure as error:
                _log.info("no change stream (code %s): jobs are polled for", error.code)
                self._stopped.wait(_LONGEST_IDLE)
            except PyMongoError:
                self._stopped.wait(jittered(_REOPEN_SECONDS))
            finally:
                self.is_live = False

    def _follow(self) -> None:
        lookup: dict[str, Any] = {"full_document": "updateLookup", "max_await_time_ms": self._await_ms}
        with self._jobs.watch(self._pipeline, **lookup) as stream:
            self.is_live = True
            self.count += 1  # What came before the stream was open is claimed now.
            while stream.alive and not self._stopped.is_set():
                self.count += stream.try_next() is not None


class Idle:
    """Tells a worker without a job how long to wait until it claims again."""

    def __init__(
        self,
        jobs: Collection[dict[str, Any]],
        poll_seconds: float,
        lease_seconds: float,
        file_types: Sequence[str] | None = None,
    ) -> None:
        self._jobs, self._poll_seconds, self._file_types = jobs, poll_seconds, file_types
        self._longest = max(poll_seconds, min(_LONGEST_IDLE, lease_seconds / 2))
        self._watch: JobWatch | None = None
        self._count_before = 0
        #: Set where MongoDB did not answer the last claim.
        self.is_away = False
        #: No claim before this time, of the monotonic clock.
        self.not_before = 0.0

    def before_claim(self) -> None:
        """A change that comes from now on ends the next wait."""
        self.is_away = False
        self._count_before = self._watch.count if self._watch is not None else 0

    def slices(self) -> Iterator[float]:
        """Seconds to sleep, again and again, until it is time to claim."""
        if self.not_before > time.monotonic():
            while (left := self.not_before - time.monotonic()) > 0:
                yield min(left, _SLICE)
            return
        if self._watch is None:
            self._watch = JobWatch(self._jobs, self._file_types)
        began, share = time.monotonic(), jittered(1)
        while self._watch.count == self._count_before:
            is_woken = self._watch.is_live and not self.is_away
            seconds = self._longest if is_woken else self._poll_seconds
            left = began + seconds * share - time.monotonic()
            if left <= 0:
                return
            yield min(left, _SLICE)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.stop()
