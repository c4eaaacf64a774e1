"""How far the change stream has come. Its follower writes it; cache, document reader and /readyz read it."""

import asyncio
from collections import deque
from typing import Final

from genstatus_server.mongo.events import ClusterTime

#: Seconds for which the cache is trusted after the change stream was last known to have caught up.
TRUSTED_SECONDS: Final = 2.0


class Freshness:
    """The position of the change stream, and since when it may be behind.

    `position` is the cluster time up to which, inclusive, every event has been applied. Local times are the
    loop's, in seconds.
    """

    def __init__(self) -> None:
        self.position: ClusterTime = 0
        #: The time of the newest event that was applied, or `position` if that is later.
        self.delivered: ClusterTime = 0
        self._caught_up_at = float("-inf")
        #: Of earlier answers: when each was requested, and the newest cluster time when MongoDB had answered.
        self._marks: deque[tuple[float, ClusterTime]] = deque()

    def is_current(self) -> bool:
        """Whether every event that was committed until two seconds ago is known to have been applied."""
        return asyncio.get_running_loop().time() - self._caught_up_at < TRUSTED_SECONDS

    def start(self, position: ClusterTime, requested_at: float) -> None:
        """A new change stream begins after `position`, as of an answer requested at `requested_at`."""
        self.position = self.delivered = position
        self._caught_up_at = requested_at
        self._marks.clear()

    def stop(self) -> None:
        """No change stream is open. `position` stays: a stream that resumes continues there."""
        self._caught_up_at = float("-inf")
        self._marks.clear()

    def advance(self, newest_event: ClusterTime | None, requested_at: float, newest_time: ClusterTime) -> None:
        """An answer of the change stream, requested at `requested_at`, has been applied.

        `newest_event` is the time of its last event, None where it had none: then the stream had caught up at
        `requested_at`. `newest_time` is the newest cluster time when MongoDB answered.
        """
        if newest_event is None:
            self._caught_up_at = requested_at
            if self._marks:
                self.position = max(self.position, self._marks[-1][1])
            self._marks.clear()
        else:
            # All events of a transaction have the same time. More of them may come with the next answer.
            self.position = max(self.position, newest_event - 1)
            while self._marks and self._marks[0][1] <= self.position:
                self._caught_up_at = self._marks.popleft()[0]
        self.delivered = max(self.delivered, self.position, newest_event or 0)
        # Drop marks older than `TRUSTED_SECONDS`: they can no longer make the cache current.
        while self._marks and self._marks[0][0] < requested_at - TRUSTED_SECONDS:
            self._marks.popleft()
        self._marks.append((requested_at, newest_time))
