"""`genstatus worker run`: a generate function in several processes, of which those that die are replaced."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Final

import click
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from genstatus_server.jobs_writer.aio import AsyncJobsWriter
from genstatus_server.jobs_writer.writer import JobsWriter, is_coroutine_function
from genstatus_server.model.jobs import FILE_TYPES

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_log = logging.getLogger("genstatus_server.jobs_writer")

#: What the parent sends: to have a process finish its job and end, and to have it give its job back and end. These are
#: two signals, because one that is sent twice may arrive once, and not SIGTERM, because a service manager may send that
#: to all processes.
_DRAIN, _GIVE_BACK = signal.SIGUSR1, signal.SIGUSR2
#: Seconds from a process's death to its replacement. They double while processes live for less than the last value.
_FIRST_PAUSE, _LONGEST_PAUSE, _STABLE_SECONDS = 1.0, 30.0, 60.0
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Options:
    """The options of each process."""

    generate: str
    uri: str
    database: str
    bucket: str | None
    lease_seconds: float
    file_types: tuple[str, ...] | None


def _option(name: str, name_of_server: str, **options: Any) -> Callable[[Any], Any]:
    """An option that the server has as well, under its own name and by its environment variable."""
    variable = f"GENSTATUS_{name_of_server.replace('-', '_').upper()}"
    return click.option(f"--{name}", f"--{name_of_server}", name, envvar=variable, show_envvar=True, **options)


@click.group()
def worker() -> None:
    """Generate files."""


@worker.command()
@click.argument("generate", metavar="MODULE:FUNCTION")
@_option("uri", "mongodb-uri", metavar="URI", required=True, help="URI of MongoDB.")
@_option("database", "mongodb-database", metavar="NAME", default="genstatus", show_default=True)
@_option("bucket", "s3-bucket", metavar="NAME", help="Where files go.")
@click.option(
    "--file-type", "file_types", multiple=True, type=click.Choice(FILE_TYPES), help="Repeat it; default: all."
)
@click.option("--lease-seconds", metavar="SECONDS", type=click.FloatRange(1), default=60.0, show_default=True)
@click.option("--processes", metavar="NUMBER", type=click.IntRange(1), default=1, show_default=True)
def run(processes: int, file_types: Sequence[str], **options: Any) -> None:
    """Call FUNCTION with each job, in as many processes as you like. It may be a coroutine function.

    SIGTERM, SIGHUP and Ctrl-C let each process finish the job in hand; a second SIGTERM or Ctrl-C gives the jobs back.
    A process that dies is replaced.
    """
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - an entry of sys.path is text
    _log_to_stderr()
    parsed = Options(file_types=tuple(file_types) or None, **options)
    _function(parsed.generate)
    _check(parsed)
    _Supervisor(parsed, processes).run()


class _Slot:
    """One of the processes, and when the next takes its place."""

    def __init__(self) -> None:
        self.process: SpawnProcess | None = None
        self.started = self.not_before = 0.0
        #: How many of the parent's signals the process has been sent.
        self.stops = 0
        self.pause = _FIRST_PAUSE

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.is_alive()


class _Supervisor:
    def __init__(self, options: Options, count: int) -> None:
        self._options = options
        self._slots = [_Slot() for _ in range(count)]
        self._stops = 0

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._count_stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As `nohup` leaves it.
            signal.signal(signal.SIGHUP, self._drain)
        for number in (_DRAIN, _GIVE_BACK):
            # Not SIG_IGN, which the processes would inherit: they would miss a stop while they start.
            signal.signal(number, lambda *_: None)
        while not self._stops or any(slot.is_alive for slot in self._slots):
            for slot in self._slots:
                self._tend(slot)
            sentinels = [slot.process.sentinel for slot in self._slots if slot.process is not None]
            wait(sentinels, _POLL_SECONDS) if sentinels else time.sleep(_POLL_SECONDS)

    def _tend(self, slot: _Slot) -> None:
        now = time.monotonic()
        if slot.process is not None and not slot.process.is_alive():
            slot.pause = _FIRST_PAUSE if now - slot.started >= _STABLE_SECONDS else slot.pause
            slot.not_before = now + slot.pause
            slot.pause = min(_LONGEST_PAUSE, 2 * slot.pause)
            if not self._stops:
                _log.warning("worker process %s ended with %s", slot.process.pid, slot.process.exitcode)
            slot.process = None
        if slot.process is None and not self._stops and now >= slot.not_before:
            slot.process = multiprocessing.get_context("spawn").Process(target=work, args=(self._options,))
            slot.started = now
            slot.process.start()
        stops = min(self._stops, 2)
        if slot.process is not None and slot.process.pid is not None and slot.stops < stops:
            # Safe even if the process has just ended: its pid is not reused until `is_alive` has reaped it.
            os.kill(slot.process.pid, _DRAIN if stops == 1 else _GIVE_BACK)
            slot.stops = stops

    def _drain(self, *_: object) -> None:
        # Never the second stop: a terminal that is closed and its shell may each send a SIGHUP.
        self._stops = max(self._stops, 1)

    def _count_stop(self, *_: object) -> None:
        # Only count: this signal handler may interrupt `is_alive` after it reaped a process, before it recorded that.
        self._stops += 1


def work(options: Options) -> None:
    """Work until the parent says stop, or is gone."""
    stop = _Stop()
    signal.signal(_DRAIN, stop.on_signal)
    signal.signal(_GIVE_BACK, stop.on_signal)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _log_to_stderr()
    generate = _function(options.generate)
    with MongoClient[dict[str, Any]](options.uri, appname="genstatus-worker") as client:
        terms: dict[str, Any] = {"bucket": options.bucket, "lease_seconds": options.lease_seconds}
        if is_coroutine_function(generate):
            asyncio.run(_work_async(AsyncJobsWriter(client[options.database], **terms), generate, options, stop))
        else:
            JobsWriter(client[options.database], **terms).work(generate, options.file_types, stop=stop)


class _Stop(threading.Event):
    """Set by a signal. `_GIVE_BACK` also raises, in the generation.

    A handler must not call `set`: it runs in the thread that may be about to wait, with the lock held.
    """

    def __init__(self) -> None:
        super().__init__()
        self._has_come = False

    def on_signal(self, number: int, _: object) -> None:
        self._has_come = True
        if number == _GIVE_BACK:
            sys.exit(1)

    def is_set(self) -> bool:
        return self._has_come

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep for so long, which is never long: the stop is noticed afterwards."""
        if not self._has_come:
            time.sleep(timeout or 0)
        return self.is_set()


async def _work_async(writer: AsyncJobsWriter, generate: Callable[[Any], Any], options: Options, before: _Stop) -> None:
    stop, task = asyncio.Event(), asyncio.current_task()

    def give_back() -> None:
        stop.set()
        if task is not None:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(_DRAIN, stop.set)
    asyncio.get_running_loop().add_signal_handler(_GIVE_BACK, give_back)
    if before.is_set():  # It came before these handlers.
        stop.set()
    await writer.work(generate, options.file_types, stop=stop)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), _DRAIN)


def _function(name: str) -> Callable[[Any], Any]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.BadParameter(f"{name}: {error}", param_hint="MODULE:FUNCTION") from error
    if not callable(found):
        raise click.BadParameter(f"{name} is no function", param_hint="MODULE:FUNCTION")
    generate: Callable[[Any], Any] = found
    return generate


def _check(options: Options) -> None:
    """Refuse what no process could work with, before they are started."""
    try:
        with MongoClient[dict[str, Any]](options.uri, connect=False) as client:
            JobsWriter(client[options.database], bucket=options.bucket, lease_seconds=options.lease_seconds)
    except PyMongoError as error:
        raise click.BadParameter(str(error), param_hint="--uri") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
