"""Writes log records in a thread of its own, so that whoever does not read them cannot stop the server."""

import atexit
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

#: Characters of the records that wait to be written; with more than that, records are dropped.
_ROOM: Final = 4 * 1024 * 1024
#: Seconds for which records are collected, so that the thread is woken rarely and writes many at once.
_COLLECTING_SECONDS: Final = 0.01
#: Seconds that the last records have at exit.
_EXIT_SECONDS: Final = 0.5


class LogWriter:
    """A text stream of log records on a file descriptor; each `write` is one record, and never blocks.

    A record that finds no room or cannot be written is dropped and counted. Once writing works again, one record
    made by `say_dropped` says how many. `join` makes one text of some records; it is called in the thread.
    """

    def __init__(
        self, descriptor: int, join: Callable[[Sequence[str]], str], say_dropped: Callable[[int], str]
    ) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._join = join
        self._say_dropped = say_dropped
        self._said = 0
        self._records: list[str] = []
        self._size = 0
        self._is_writing = False
        # Its lock is reentrant: a record may be written by a destructor that runs in the middle of `write`.
        #: Notified when records are added or written.
        self.changed = threading.Condition()
        # A daemon: at exit it may hang in a pipe that nobody reads.
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.wait_written)

    def write(self, record: str) -> int:
        """Have this record written soon."""
        with self.changed:
            if self._size + len(record) > _ROOM:
                self.dropped += 1
            else:
                self._records.append(record)
                self._size += len(record)
                if len(self._records) == 1:
                    self.changed.notify_all()
        return len(record)

    def flush(self) -> None:
        """Nothing: a stream has this method, and every record is flushed."""

    def wait_written(self, seconds: float = _EXIT_SECONDS) -> None:
        """Block until everything is written, for `seconds` at most."""
        with self.changed:
            self.changed.wait_for(lambda: not (self._records or self._is_writing), seconds)

    def _run(self) -> None:
        while True:
            with self.changed:
                self._is_writing = False
                self.changed.notify_all()
                self.changed.wait_for(lambda: self._records)
                self._is_writing = True
            time.sleep(_COLLECTING_SECONDS)
            with self.changed:
                records, self._records, self._size = self._records, [], 0
            self._write_out(records)

    def _write_out(self, records: list[str]) -> None:
        for group in _groups(records):
            try:
                self._send(group)
                if self._said < self.dropped:
                    dropped = self.dropped - self._said
                    self._send([self._say_dropped(dropped)])
                    self._said += dropped
            except OSError:  # Nobody reads any more, or the disk is full.
                with self.changed:
                    self.dropped += len(group)

    def _send(self, records: Sequence[str]) -> None:
        left = memoryview(self._join(records).encode(errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # Another program that has the same terminal or pipe made it non-blocking.
                select.select([], [self._descriptor], [])


def _groups(records: Iterable[str]) -> Iterator[list[str]]:
    """Records to be written at once: as many as no other process's records on the same pipe can come between."""
    group: list[str] = []
    for record in records:
        if group and len(record) + sum(map(len, group)) > select.PIPE_BUF:
            yield group
            group = []
        group.append(record)
    yield group
