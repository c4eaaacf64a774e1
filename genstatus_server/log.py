"""Structured records with a stable `action`. Session tokens and presigned URLs are scrubbed, whoever logs them."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

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

_logger: Any = structlog.get_logger("genstatus_server")


def scrub(text: str) -> str:
    """`text` without what must not be known: signatures, tokens, and the password of a MongoDB URI."""
    lowered = text.lower()
    if not any(word in lowered for word in _SUSPICIOUS):
        return text
    return _USER_INFO.sub(r"\1***@", _DIGEST.sub("***", _SECRETS.sub(r"\1***", text)))


def cause(error: BaseException) -> str:
    """What went wrong, in one line for the log."""
    root = error.__cause__ or error
    return scrub(" ".join(f"{type(root).__name__}: {root}".split()))[:300]


def info(action: str, **fields: Any) -> None:
    """Write a record of something that happened."""
    _logger.info(action, **fields)


def warning(action: str, **fields: Any) -> None:
    """Write a record of something that an operator should see."""
    _logger.warning(action, **fields)


def exception(action: str, **fields: Any) -> None:
    """Write a record of the exception that is being handled, with its traceback: a defect of ours."""
    _logger.exception(action, **fields)  # noqa: LOG004 - it is called from one.


def set_up(log_format: str) -> None:
    """Write records of this and of every library to standard error, as `json` or for a `human`."""
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
    # Below that it quotes what it could not understand, and that may hold anything.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


def _renderers(log_format: str) -> list[Any]:
    if log_format == "human":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [_action_first, structlog.processors.JSONRenderer(default=str)]


def _action_first(_logger: Any, _name: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {"timestamp": record.pop("timestamp"), "level": record.pop("level"), "action": record.pop("event")}
    return first | dict(record)


def _scrub_line(_logger: Any, _name: str, line: str) -> str:
    return scrub(line)
