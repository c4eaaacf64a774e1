"""One run of the command: wait, download, print the result to standard output, and end with the right status."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Final, cast

from . import (
    Generation,
    GenerationClient,
    GenerationError,
    GenerationRefused,
    Status,
    WaitTimedOut,
)
from .display import Display, open_display
from .part_file import PartFile

FAILED: Final = 1
USAGE: Final = 2
NO_ACCESS: Final = 4
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130
TERMINATED: Final = 143
#: Names of standard output; as paths they would be replaced.
_STDOUT: Final = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_EXIT_STATUS: Final = {Status.FINISHED: 0, Status.FAILED: FAILED, Status.INVALID: 3}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which file, saved where (None: not at all; `-`: standard output), within how many seconds (None: for ever)."""

    submission_id: int
    file_type: str
    path: Path | None
    timeout: float | None

    def __str__(self) -> str:
        return f"{self.file_type} of submission {self.submission_id}"

    @property
    def is_to_stdout(self) -> bool:
        return str(self.path) in _STDOUT


def run(base_url: str, session_token: str, wanted: Wanted) -> int:
    """Returns the exit status. Only the result goes to standard output."""
    # Also told to end by a signal, it removes the half of a file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with open_display(str(wanted)) as display:
        try:
            if wanted.path is not None and not wanted.is_to_stdout:
                PartFile(wanted.path).close()  # A path that cannot be written fails before the wait.
            with GenerationClient(base_url, session_token) as client:
                generation = _wait_and_fetch(client, wanted, display)
        except (GenerationError, ValueError, OSError, KeyboardInterrupt) as error:
            return _ended_by(error, display)
    if generation.status is Status.FINISHED and not wanted.is_to_stdout:
        sys.stdout.write(f"{wanted.path or generation.url}\n")
    return _EXIT_STATUS[generation.status]


def _wait_and_fetch(client: GenerationClient, wanted: Wanted, display: Display) -> Generation:
    begun = time.monotonic()
    what = wanted.submission_id, wanted.file_type
    generation = client.wait_for_generation(*what, timeout=wanted.timeout, ask_first=True, on_update=display.update)
    display.settled(generation)
    if generation.status is Status.FINISHED and wanted.path is not None:
        left = None if wanted.timeout is None else begun + wanted.timeout - time.monotonic()
        if wanted.is_to_stdout:
            # On a terminal a bar would be drawn into the file.
            report = (lambda *_: None) if os.isatty(1) else display.progress
            with open(1, "wb", buffering=0, closefd=False) as stdout:
                stream = cast("BinaryIO", stdout)
                client.download_to(*what, stream, generation=generation, timeout=left, on_progress=report)
        else:
            client.download(*what, wanted.path, generation=generation, timeout=left, on_progress=display.progress)
    return generation


def _ended_by(error: BaseException, display: Display) -> int:
    display.say(str(error) or "interrupted")
    match error:
        case GenerationRefused(status=HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN):
            return NO_ACCESS
        case GenerationRefused() | ValueError():
            return USAGE
        case WaitTimedOut():
            return TIMED_OUT
        case KeyboardInterrupt():
            return INTERRUPTED
        case _:
            return FAILED
