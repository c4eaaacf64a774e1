"""Structured records with a stable `action`.

Session tokens and presigned URLs are removed from every record, also from those of libraries.
"""

import atexit
import json
import logging
import os
import re
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import structlog
from tornado.iostream import StreamBufferFullError

#: Each text with a secret contains one of these; a search for them is quick.
_SUSPICIOUS: Final = ("signature", "aws4", "credential", "security-token", "awsaccesskeyid", "session", "://")
_SECRETS: Final = re.compile(
    # The query of a presigned URL (Signature V4 and V2), and a session token in a header or a query. A quote may be
    # escaped, more than once, because it is the rendered record that is scrubbed.
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|x-session-id|session)"
    # A quote before a bracket, a comma or a colon ends a text: what follows is the structure of the record.
    r"\\*[\"']?\s*(?:=|%3d|:)\s*(?:\\*[\"'](?![\]},:])|\\*))[^&\s\"'<>,\\]+"
)
#: A signature, or the hash of a session token.
_DIGEST: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)
_USER_INFO: Final = re.compile(r"(?i)([a-z][a-z0-9+.-]*://)[^@/\s\"'\\]+@")
#: Details in the driver's messages that only its developers need, and the command that an unauthorized error quotes.
_DRIVER_DETAILS: Final = re.compile(
    r"(, Timeout: [\d.]+s)?, Topology Description: .*|,? full error: .*| \(configured timeouts: [^)]*\)|\s*\{.*"
)
_LONGEST_CAUSE: Final = 300
#: What a terminal obeys, or shows elsewhere than it stands.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_encode: Final = json.JSONEncoder(default=str).encode
_logger: Any = structlog.get_logger("genstatus_server")
#: Records that wait to be written; with more than that, records are dropped.
_ROOM: Final = 10_000
#: Seconds for which records are collected, so that the thread is woken rarely and writes many at once.
_COLLECTING_SECONDS: Final = 0.01
#: Seconds that the last records have at exit.
_EXIT_SECONDS: Final = 0.5


def scrub(text: str) -> str:
    """`text` without secrets: signatures, tokens, and the password of a MongoDB URI."""
    if not _is_suspicious(text):
        return text
    return _USER_INFO.sub(r"\1***@", _DIGEST.sub("***", _SECRETS.sub(r"\1***", text)))


def _is_suspicious(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in _SUSPICIOUS)


def plain(error: BaseException) -> str:
    """The message of `error` in one line, without what only the driver's authors can read."""
    text = _DRIVER_DETAILS.sub("", " ".join(str(error).split()))
    return scrub(text)[:_LONGEST_CAUSE]


def cause(error: BaseException) -> str:
    """The class and the message of what is behind `error`, in one line for the log."""
    root = error.__cause__ or error
    return f"{type(root).__name__}: {plain(root)}".removesuffix(": ")


def info(action: str, **fields: Any) -> None:
    """Write a record of something that happened."""
    write("info", action, fields)


def warning(action: str, **fields: Any) -> None:
    """Write a record of something that an operator should see."""
    write("warning", action, fields)


def exception(action: str, **fields: Any) -> None:
    """Write a record of the exception that is being handled, with its traceback: a defect of ours."""
    write("error", action, {**fields, "exception": traceback.format_exc().rstrip()})


def dropped_records() -> int:
    """How many records were dropped since the start because they could not be written."""
    return _writer.dropped if _writer else 0


def wait_written(seconds: float) -> None:
    """Block until all records are written, for `seconds` at most."""
    if _writer:
        _writer.wait_written(seconds)


def set_up(log_format: str) -> None:
    """Write the records of this package and of every library to standard error.

    The format is `json`, `human`, or `auto`: for a human on a terminal. A reader of standard error that stops does not
    hold up the server.
    """
    global _writer  # noqa: PLW0603 - as there is one standard error.
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    is_human = log_format == "human" or (log_format == "auto" and is_terminal)
    render = _human_renderer(colors=is_terminal) if is_human else _json_line
    # Where standard error is closed, its number may be that of another file by now.
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    _writer = LogWriter(descriptor, render)
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryRecords()], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("tornado.application").addFilter(_is_no_flood)
    # Below WARNING, this logger quotes input that Tornado could not parse. That may contain secrets.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


def write(level: str, action: str, fields: Mapping[str, Any]) -> None:
    """Write a record of this level."""
    if _writer is None:
        getattr(_logger, level)(action, **fields)
    else:
        _writer.write(level, action, fields)


class _LibraryRecords(logging.Handler):
    """Writes what libraries log as records whose action is their sentence."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sentence = record.getMessage()
        except (TypeError, ValueError):  # Its arguments do not fit.
            sentence = str(record.msg)
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip() if record.exc_info else None
        fields = {"logger": record.name} | ({"exception": text} if text else {})
        write(record.levelname.lower(), sentence, fields)


def _is_no_flood(record: logging.LogRecord) -> bool:
    """False for the traceback of a full read buffer: the client sent too much, and Tornado has logged it already."""
    return not (record.exc_info and isinstance(record.exc_info[1], StreamBufferFullError))


class Record(NamedTuple):
    """A record; it is rendered in the thread that writes it. `at` is the time in seconds since 1970."""

    level: str
    action: str
    fields: Mapping[str, Any]
    at: float

    @property
    def timestamp(self) -> str:
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _json_line(record: Record) -> str:
    return (
        _encode({"timestamp": record.timestamp, "level": record.level, "action": record.action, **record.fields}) + "\n"
    )


def _human_renderer(*, colors: bool) -> Callable[[Record], str]:
    console = structlog.dev.ConsoleRenderer(colors=colors)

    def line(record: Record) -> str:
        fields = {
            name: _without_controls(name, value) for name, value in {**record.fields, "event": record.action}.items()
        }
        return console(None, record.level, {"timestamp": record.timestamp, "level": record.level, **fields}) + "\n"

    return line


def _without_controls(name: str, value: Any) -> Any:
    """`value` with what a terminal would obey escaped; only a traceback keeps its lines."""
    if not isinstance(value, str):
        return value
    kept = "\n" if name == "exception" else ""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], value)


def join(records: Sequence[str]) -> str:
    """The records as one text, without secrets."""
    together = "".join(records)
    # A secret in one record is no reason to search all of them.
    return "".join(map(scrub, records)) if _is_suspicious(together) else together


#: Set by `set_up`; without a writer, structlog writes in its own way.
_writer: "LogWriter | None" = None


class LogWriter:
    """Writes log records to a file descriptor, in a separate thread. `write` never blocks.

    In the thread, `render` makes a line of a record. A record that finds no room, or cannot be rendered or written, is
    dropped and counted. Once writing works again, the record `log_records_dropped` says how many.
    """

    def __init__(self, descriptor: int, render: Callable[[Record], str]) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._render = render
        self._reported_drops = 0
        self._records: list[Record] = []
        self._is_writing = False
        # Its lock is reentrant: a record may be written by a destructor that runs in the middle of `write`.
        #: Notified when records are added or written.
        self.changed = threading.Condition()
        # A daemon thread: at exit it may hang in a pipe without a reader.
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.wait_written)

    def write(self, level: str, action: str, fields: Mapping[str, Any]) -> None:
        """Have a record written soon."""
        with self.changed:
            if len(self._records) >= _ROOM:
                self.dropped += 1
                return
            self._records.append(Record(level, action, fields, time.time()))
            if len(self._records) == 1:
                self.changed.notify_all()

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
                records, self._records = self._records, []
            for group in _groups(self._rendered(records)):
                self._write_out(group)

    def _rendered(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            try:
                yield self._render(record)
            except Exception:  # noqa: BLE001 - whatever a field's text raises: the thread goes on.
                self._drop(1)

    def _write_out(self, group: list[str]) -> None:
        try:
            self._send(group)
            if self._reported_drops < self.dropped:
                dropped = self.dropped - self._reported_drops
                record = Record("warning", "log_records_dropped", {"records": dropped}, time.time())
                self._send([self._render(record)])
                self._reported_drops += dropped
        except OSError:  # The reader is gone, or the disk is full.
            self._drop(len(group))

    def _drop(self, count: int) -> None:
        with self.changed:
            self.dropped += count

    def _send(self, records: Sequence[str]) -> None:
        left = memoryview(join(records).encode(errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # Another program that has the same terminal or pipe made it non-blocking.
                select.select([], [self._descriptor], [])


def _groups(records: Iterable[str]) -> Iterator[list[str]]:
    """Group records into writes of at most `PIPE_BUF`: then no records of other processes come in between."""
    group: list[str] = []
    for record in records:
        if group and len(record) + sum(map(len, group)) > select.PIPE_BUF:
            yield group
            group = []
        group.append(record)
    yield group
