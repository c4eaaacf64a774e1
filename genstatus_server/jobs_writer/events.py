"""What a worker reports of its jobs: one line in the log each, and one call of the worker's own hook."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_log = logging.getLogger("genstatus_server.jobs_writer")

_FAILED: Final = frozenset({"failed", "lost"})


@dataclass(frozen=True, slots=True)
class JobEvent:
    """`kind` is claimed, finished, failed, invalid, released or lost; `seconds` are those since the claim.

    `size` is in bytes: of the file, where the job is finished and its size is known.
    """

    kind: str
    job_id: int
    submission_id: int
    file_type: str
    attempt: int
    seconds: float
    size: int | None = None


#: A worker's own hook, such as one that counts. It is called in the thread that makes the change.
OnEvent = Callable[[JobEvent], object]


def report(event: JobEvent, hook: OnEvent | None) -> None:
    """Log `event` and call `hook`. An error of the hook is logged: it must not harm the job."""
    _log.log(
        logging.WARNING if event.kind in _FAILED else logging.INFO,
        "%s: job %s, %s of submission %s, attempt %s, after %.1f s",
        event.kind,
        event.job_id,
        event.file_type,
        event.submission_id,
        event.attempt,
        event.seconds,
    )
    if hook is not None:
        try:
            hook(event)
        except Exception:  # noqa: BLE001 - whatever the hook does wrong
            _log.exception("on_event failed")
