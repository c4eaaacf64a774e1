"""One run of `genstatus wait`: wait, download, print the result to standard output, and end with the right status.

Standard error shows a spinner and a bar on a terminal, and plain lines elsewhere.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import BinaryIO, Final, Protocol, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from . import (
    Generation,
    GenerationClient,
    GenerationError,
    GenerationRefused,
    Phase,
    Status,
    Update,
    WaitTimedOut,
)
from .part_file import PartFile

FAILED: Final = 1
USAGE: Final = 2
NO_ACCESS: Final = 4
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130
#: Names of standard output; as paths they would be replaced.
_STDOUT: Final = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_EXIT_STATUS: Final = {Status.FINISHED: 0, Status.FAILED: FAILED, Status.INVALID: 3}
_STATUS_TEXTS = {
    Status.FINISHED: "finished",
    Status.FAILED: "failed",
    Status.INVALID: "invalid: the file was never requested",
    Status.WAITING: "waiting",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which file, saved where (None: not at all; `-`: standard output), within how many seconds (None: for ever)."""

    submission_id: int
    file_type: str
    path: str | None
    timeout: float | None

    def __str__(self) -> str:
        return f"{self.file_type} of submission {self.submission_id}"

    @property
    def is_to_stdout(self) -> bool:
        return self.path in _STDOUT


def run(base_url: str, session_token: str, wanted: Wanted) -> int:
    """Returns the exit status. Only the result goes to standard output."""
    # An exception, so that the part of a file is removed at the end by a signal, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # As SIGHUP is under `nohup`.
            signal.signal(number, lambda got, _: sys.exit(128 + got))
    with open_display(str(wanted)) as display:
        try:
            _check_output(wanted)
            with GenerationClient(base_url, session_token) as client:
                generation = _wait_and_fetch(client, wanted, display)
            if generation.status is Status.FINISHED and not wanted.is_to_stdout:
                with _open_stdout() as stdout:
                    stdout.write(os.fsencode(f"{wanted.path or generation.url}\n"))
        except (GenerationError, ValueError, OSError, KeyboardInterrupt) as error:
            return _ended_by(error, display)
    return _EXIT_STATUS[generation.status]


def _check_output(wanted: Wanted) -> None:
    """Raise ValueError for an output that cannot be written, before the wait and not after it."""
    if sys.stdout is None:  # Its descriptor is free, and the next connection gets it.
        raise ValueError("standard output is closed")
    if wanted.path is None or wanted.is_to_stdout:
        return
    try:
        PartFile(wanted.path).close()
    except OSError as error:
        raise ValueError(f"--download: {wanted.path}: {error.strerror or error}") from error


def _open_stdout() -> BinaryIO:
    """Standard output without a buffer, so that an error comes at once and not as Python ends."""
    return cast("BinaryIO", open(1, "wb", buffering=0, closefd=False))


def _wait_and_fetch(client: GenerationClient, wanted: Wanted, display: "Display") -> Generation:
    begun = time.monotonic()
    what = wanted.submission_id, wanted.file_type
    generation = client.wait_for_generation(*what, timeout=wanted.timeout, ask_first=True, on_update=display.update)
    display.settled(generation)
    if generation.status is Status.FINISHED and wanted.path is not None:
        left = None if wanted.timeout is None else begun + wanted.timeout - time.monotonic()
        if wanted.is_to_stdout:
            # On a terminal a bar would be drawn into the file.
            report = (lambda *_: None) if os.isatty(1) else display.progress
            with _open_stdout() as stdout:
                client.download_to(*what, stdout, generation=generation, timeout=left, on_progress=report)
        else:
            client.download(*what, wanted.path, generation=generation, timeout=left, on_progress=display.progress)
    return generation


def _ended_by(error: BaseException, display: "Display") -> int:
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


class Display(Protocol):
    """How the run is shown."""

    def update(self, update: Update) -> None:
        """The waiting goes on."""

    def settled(self, generation: Generation) -> None:
        """The end of the wait."""

    def progress(self, received: int, total: int | None) -> None:
        """The download goes on; sizes are in bytes."""

    def say(self, text: str) -> None:
        """A line that stays."""


def doing(update: Update) -> str:
    """What the client is doing, in a few words; the same as long as nothing new has happened."""
    if update.phase is Phase.RECONNECTING:
        return f"{printable(update.error)}; asking again in {update.pause:.0f} s"
    return "asking" if update.generation is None else _STATUS_TEXTS[update.generation.status]


def result(generation: Generation) -> str:
    text = _STATUS_TEXTS[generation.status]
    return f"{text}: {printable(generation.message)}" if generation.message else text


def printable(text: str) -> str:
    """A text from elsewhere on one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


class Lines:
    """A line for whatever is new: for logs and scripts."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._last = ""

    def update(self, update: Update) -> None:
        if update.phase is not Phase.SETTLED and (update.generation or update.error):
            self.say(doing(update))

    def settled(self, generation: Generation) -> None:
        self.say(result(generation))

    def progress(self, received: int, total: int | None) -> None:
        if received in (0, total):
            self.say(f"downloaded {received} bytes" if received else "downloading")

    def say(self, text: str) -> None:
        if text != self._last:
            self._last = text
            self._console.print(f"{self._what}: {printable(text)}", markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A spinner with the elapsed time, and a bar while the file comes. Neither stays, however it ends."""

    def __init__(self, waiting: Progress, downloading: Progress, what: str) -> None:
        self._waiting, self._downloading, self._what = waiting, downloading, what
        self._wait: TaskID = waiting.add_task(what, text="asking", total=None)
        self._file: TaskID | None = None

    def update(self, update: Update) -> None:
        self._waiting.update(self._wait, text=doing(update))

    def settled(self, generation: Generation) -> None:
        self._waiting.stop()
        self.say(result(generation))

    def progress(self, received: int, total: int | None) -> None:
        if self._file is None:
            self._downloading.start()
            self._file = self._downloading.add_task(self._what)
        self._downloading.update(self._file, completed=received, total=total)

    def say(self, text: str) -> None:
        self._waiting.console.print(f"{self._what}: {printable(text)}", markup=False, highlight=False)


@contextmanager
def open_display(what: str) -> Iterator[Display]:
    """Show the progress of waiting for `what` while the block lasts. Afterwards the terminal is as before."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console, what)
        return
    text = TextColumn("{task.description}: {task.fields[text]}", markup=False)
    waiting = Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True)
    name = TextColumn("{task.description}", markup=False)
    downloading = Progress(name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), console=console, transient=True)
    try:
        waiting.start()
        yield Bars(waiting, downloading, what)
    finally:
        waiting.stop()
        downloading.stop()
