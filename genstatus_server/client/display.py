"""What a person sees on standard error: a spinner and a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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

from . import Generation, Phase, Status, Update

_STATUS_TEXTS = {
    Status.FINISHED: "finished",
    Status.FAILED: "failed",
    Status.INVALID: "invalid: the file was never requested",
    Status.WAITING: "waiting",
}


class Display(Protocol):
    """How the run is shown."""

    def update(self, update: Update) -> None:
        """The waiting goes on."""

    def settled(self, generation: Generation) -> None:
        """The waiting is over."""

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
    """A display of `what` is waited for; closed, it leaves the terminal as it was."""
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
