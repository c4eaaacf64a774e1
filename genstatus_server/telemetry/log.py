"""Structured records with a stable `action`. Session tokens and presigned URLs are scrubbed, whoever logs them."""

import asyncio
import atexit
import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import structlog
from tornado.iostream import StreamBufferFullError

#: One of these stands in every text that has a secret to scrub: they are looked for first, because that is quick.
_SUSPICIOUS: Final = ("signature", "aws4", "credential", "security-token", "awsaccesskeyid", "session", "mongodb")
_SECRETS: Final = re.compile(
    # The query of a presigned URL (Signature V4 and V2), and a session token in a header or a query. A quote may be
    # escaped, more than once, because it is the rendered record that is scrubbed.
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|x-session-id|session)"
    r"\\*[\"']?\s*(?:=|%3d|:)\s*\\*[\"']?)[^&\s\"'<>,\\]+"
)
#: Whatever else it stands in, this is a signature or the hash of a session token.
_DIGEST: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)
_USER_INFO: Final = re.compile(r"(?i)(mongodb(?:\+srv)?://)[^@/\s]+@")

_encode: Final = json.JSONEncoder(default=str).encode
_logger: Any = structlog.get_logger("genstatus_server")


def scrub(text: str) -> str:
    """`text` without what must not be known: signatures, tokens, and the password of a MongoDB URI."""
    if not _is_suspicious(text):
        return text
    return _USER_INFO.sub(r"\1***@", _DIGEST.sub("***", _SECRETS.sub(r"\1***", text)))


def _is_suspicious(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in _SUSPICIOUS)


def cause(error: BaseException) -> str:
    """What went wrong, in one line for the log."""
    root = error.__cause__ or error
    return scrub(" ".join(f"{type(root).__name__}: {root}".split()))[:300]


def info(action: str, **fields: Any) -> None:
    """Write a record of something that happened."""
    _record("info", action, fields)


def warning(action: str, **fields: Any) -> None:
    """Write a record of something that an operator should see."""
    _record("warning", action, fields)


def exception(action: str, **fields: Any) -> None:
    """Write a record of the exception that is being handled, with its traceback: a defect of ours."""
    _logger.exception(action, **fields)  # noqa: LOG004 - it is called from one.


def _record(level: str, action: str, fields: Mapping[str, Any]) -> None:
    if _lines is None:
        getattr(_logger, level)(action, **fields)
    else:  # What structlog would make of it, in half of its time.
        moment = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        _lines.put({"timestamp": moment, "level": level, "action": action, **fields})


def set_up(log_format: str) -> None:
    """Write records of this and of every library to standard error, as `json` or for a `human`."""
    global _lines  # noqa: PLW0603 - as there is one standard error.
    _lines = JsonLines(sys.stderr) if log_format == "json" else None
    shared: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    rendered = [structlog.processors.format_exc_info, *_renderers(log_format), _scrub_line]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("tornado.application").addFilter(_is_no_flood)
    # Below that it quotes what it could not understand, and that may hold anything.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


def _is_no_flood(record: logging.LogRecord) -> bool:
    """Of a client that sends more than is read ahead, Tornado has said so in one line: its traceback is no defect."""
    return not (record.exc_info and isinstance(record.exc_info[1], StreamBufferFullError))


class JsonLines:
    """Writes records as lines of JSON; those of one turn of the loop together, behind the answers that they tell of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._records: list[Mapping[str, Any]] = []
        atexit.register(self._write)

    def put(self, record: Mapping[str, Any]) -> None:
        """Write this record soon; where no loop runs, now."""
        self._records.append(record)
        if len(self._records) == 1:
            try:
                asyncio.get_running_loop().call_soon(self._write)
            except RuntimeError:
                self._write()

    def _write(self) -> None:
        records, self._records = self._records, []
        lines = [_encode(record) + "\n" for record in records]
        together = "".join(lines)
        # What one record has in it is no reason to look through all of them.
        self._stream.write("".join(map(scrub, lines)) if _is_suspicious(together) else together)
        self._stream.flush()


#: Set up by `set_up` for `json`.
_lines: JsonLines | None = None


def _renderers(log_format: str) -> list[Any]:
    if log_format == "human":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [_action_first, structlog.processors.JSONRenderer(default=str)]


def _action_first(_logger: Any, _name: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {"timestamp": record.pop("timestamp"), "level": record.pop("level"), "action": record.pop("event")}
    return first | dict(record)


def _scrub_line(_logger: Any, _name: str, line: str) -> str:
    return scrub(line)
