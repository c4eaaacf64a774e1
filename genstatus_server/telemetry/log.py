"""Structured records with a stable `action`. Session tokens and presigned URLs are scrubbed, whoever logs them."""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from tornado.iostream import StreamBufferFullError

from genstatus_server.telemetry.log_writer import LogWriter

#: Each text with a secret contains one of these; a search for them is quick.
_SUSPICIOUS: Final = ("signature", "aws4", "credential", "security-token", "awsaccesskeyid", "session", "mongodb")
_SECRETS: Final = re.compile(
    # The query of a presigned URL (Signature V4 and V2), and a session token in a header or a query. A quote may be
    # escaped, more than once, because it is the rendered record that is scrubbed.
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|x-session-id|session)"
    r"\\*[\"']?\s*(?:=|%3d|:)\s*\\*[\"']?)[^&\s\"'<>,\\]+"
)
#: A signature, or the hash of a session token.
_DIGEST: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)
_USER_INFO: Final = re.compile(r"(?i)(mongodb(?:\+srv)?://)[^@/\s]+@")
#: What MongoDB's driver adds to its messages for those who develop it; and the whole command, of what is not allowed.
_DRIVER_DETAILS: Final = re.compile(
    r"(, Timeout: [\d.]+s)?, Topology Description: .*|,? full error: .*| \(configured timeouts: [^)]*\)|\s*\{.*"
)
_LONGEST_CAUSE: Final = 300
#: What a terminal obeys, or shows elsewhere than it stands.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_encode: Final = json.JSONEncoder(default=str).encode
_logger: Any = structlog.get_logger("genstatus_server")
_Render = Callable[[str, str, Mapping[str, Any]], str]


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
    _record("info", action, fields)


def warning(action: str, **fields: Any) -> None:
    """Write a record of something that an operator should see."""
    _record("warning", action, fields)


def exception(action: str, **fields: Any) -> None:
    """Write a record of the exception that is being handled, with its traceback: a defect of ours."""
    _record("error", action, {**fields, "exception": traceback.format_exc().rstrip()})


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
    global _writer, _render  # noqa: PLW0603 - as there is one standard error.
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    is_human = log_format == "human" or (log_format == "auto" and is_terminal)
    _render = _human_renderer(colors=is_terminal) if is_human else _json_line
    # Where standard error is closed, its number may be that of another file by now.
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    _writer = LogWriter(descriptor, join, lambda count: _render("warning", "log_records_dropped", {"records": count}))
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryRecords()], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("tornado.application").addFilter(_is_no_flood)
    # Below that it quotes what it could not understand, and that may hold anything.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


def _record(level: str, action: str, fields: Mapping[str, Any]) -> None:
    if _writer is None:
        getattr(_logger, level)(action, **fields)
    else:
        _writer.write(_render(level, action, fields))


class _LibraryRecords(logging.Handler):
    """Writes what libraries log as records whose action is their sentence."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sentence = record.getMessage()
        except (TypeError, ValueError):  # Its arguments do not fit.
            sentence = str(record.msg)
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip() if record.exc_info else None
        fields = {"logger": record.name} | ({"exception": text} if text else {})
        _record(record.levelname.lower(), sentence, fields)


def _is_no_flood(record: logging.LogRecord) -> bool:
    """Of a client that sends more than is read ahead, Tornado has said so in one line: its traceback is no defect."""
    return not (record.exc_info and isinstance(record.exc_info[1], StreamBufferFullError))


def _json_line(level: str, action: str, fields: Mapping[str, Any]) -> str:
    return _encode({"timestamp": _now(), "level": level, "action": action, **fields}) + "\n"


def _human_renderer(*, colors: bool) -> _Render:
    console = structlog.dev.ConsoleRenderer(colors=colors)

    def line(level: str, action: str, fields: Mapping[str, Any]) -> str:
        record = {name: _without_controls(name, value) for name, value in {**fields, "event": action}.items()}
        return console(None, level, {"timestamp": _now(), "level": level, **record}) + "\n"

    return line


def _without_controls(name: str, value: Any) -> Any:
    """`value` with what a terminal would obey escaped; only a traceback keeps its lines."""
    if not isinstance(value, str):
        return value
    kept = "\n" if name == "exception" else ""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in kept else ascii(found[0])[1:-1], value)


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def join(records: Sequence[str]) -> str:
    """The records as one text, without secrets."""
    together = "".join(records)
    # A secret in one record is no reason to search all of them.
    return "".join(map(scrub, records)) if _is_suspicious(together) else together


#: Set by `set_up`; without a writer, structlog writes in its own way.
_writer: LogWriter | None = None
_render: _Render = _json_line
