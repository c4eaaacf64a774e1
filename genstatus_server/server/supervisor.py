"""Several server processes that share one port: the parent listens, starts them, and replaces those that die.

Either end of the channel between the parent and a process may request the metrics of the other. A message is a line of
JSON: a request, `{"request": 7}`, or the reply to one, `{"reply": 7, "text": "…"}`. A process also tells its parent
once that it serves, `{"failure": null}`, or why it cannot start, `{"failure": "…"}`.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from genstatus_server.model.errors import ServiceUnavailable, StartupError
from genstatus_server.server.system import Shutdown, inherited_descriptors, notify, usable_cores
from genstatus_server.settings import ENVIRONMENT_PREFIX, INHERITED, OPTIONS, Settings
from genstatus_server.telemetry import log, metrics
from genstatus_server.telemetry.metrics import Metrics, collect, exposition

#: Seconds from a process's death to its replacement. They double while processes live for less than `_STABLE_SECONDS`.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
_STABLE_SECONDS: Final = 60.0
#: Seconds that a process may take beyond `drain_timeout` before it is killed.
_KILL_SECONDS: Final = 2.0
#: Seconds that a reply may take. The other end replies out of memory, unless it hangs.
REPLY_SECONDS: Final = 1.0
#: Seconds for the parent to request the metrics of every process, of which one may hang.
_ALL_METRICS_SECONDS: Final = 2 * REPLY_SECONDS
#: Bytes of the longest line.
_LIMIT: Final = 4 * 1024 * 1024


async def run_processes(
    settings: Settings,
    sockets: Sequence[socket.socket],
    shutdown: Shutdown,
    s3_keys: tuple[str, str] | None,
) -> None:
    """Keep `settings.processes` servers running on `sockets` until `shutdown` is set; then have each drain.

    Raises `StartupError` if one of them fails as it starts for the first time. Later, such a process is started again,
    as is one that is killed at any time.
    """
    supervisor = _Supervisor(settings, sockets, s3_keys, shutdown)
    keepers = [asyncio.create_task(supervisor.keep_running(number)) for number in range(len(supervisor.serving))]
    notifying = asyncio.create_task(supervisor.notify_when_serving())
    stopping = asyncio.create_task(shutdown.wait())
    try:
        await asyncio.wait({*keepers, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for keeper in keepers:
            if keeper.done():
                shutdown.skip_delay()
                keeper.result()
        notify("STOPPING=1")
    finally:
        for each in sockets:
            each.close()  # The processes have their own, and close them once they have drained.
        tasks = (*keepers, notifying, stopping)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def channel_to_parent(shutdown: Shutdown) -> "AsyncIterator[Channel | None]":
    """The channel to the parent, None without one; ends this process when the parent has ended, by whatever means.

    The parent is told of a `StartupError` in the block, and reports it.
    """
    descriptors = inherited_descriptors()
    if not descriptors:
        yield None
        return
    shutdown.has_parent = True
    async with open_channel(socket.socket(fileno=descriptors[0]), on_gone=shutdown.parent_gone) as channel:
        try:
            yield channel
        except StartupError as error:
            channel.tell_start(str(error))
            shutdown.exit_now(1)  # The parent's signal would meet a loop that is being closed.


class _Supervisor:
    """The parent's side: the server processes and their metrics."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        s3_keys: tuple[str, str] | None,
        shutdown: Shutdown,
    ) -> None:
        #: Of each process, whether it has ever served.
        self.serving = [asyncio.Event() for _ in range(settings.processes or usable_cores())]
        self._shutdown = shutdown
        self._environment = _environment(settings, s3_keys)
        self._listening = [each.fileno() for each in sockets]
        self._kill_seconds = settings.drain_timeout + _KILL_SECONDS
        self._collected: dict[Channel, metrics.Collected] = {}
        #: The counters and histograms of the processes that have exited.
        self._totals: metrics.Collected = []
        self._processes: set[Process] = set()
        shutdown.on_second_signal = self._kill_all
        self._own = CollectorRegistry()
        self._restarts = Counter("genstatus_process_restarts", "Processes that died.", registry=self._own)
        self._own.register(metrics.DroppedLogRecords())

    async def notify_when_serving(self) -> None:
        for each in self.serving:
            await each.wait()
        notify("READY=1")

    async def keep_running(self, number: int) -> None:
        """Run a process, and another whenever it dies, until cancelled; then have it drain.

        Raises `StartupError` if it fails as it starts for the first time.
        """
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while True:
            started = loop.time()
            try:
                status: object = await self._run_one(number)
            except OSError as error:  # Too many processes, or no memory: it may work in a moment.
                status = error.strerror
            lived = loop.time() - started
            pause = FIRST_PAUSE if lived >= _STABLE_SECONDS else pause
            self._restarts.inc()
            log.warning("process_died", number=number, status=status, next_start_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _run_one(self, number: int) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await self._start(theirs)
            except BaseException:
                ours.close()  # Where the process runs after all, it ends now.
                raise
        failure: str | None = None

        def on_start(told: str | None) -> None:
            nonlocal failure
            failure = told
            if told is None:
                self.serving[number].set()

        async with open_channel(ours) as channel:
            channel.reply, channel.on_start = self._exposition, on_start
            self._collected[channel] = []
            self._processes.add(process)
            try:
                await process.wait()
                await channel.ended.wait()  # Its last message may say why it could not start.
            except asyncio.CancelledError:
                await self._stop(process)
                raise
            finally:
                self._processes.discard(process)
                # What was counted after the last scrape is lost; what was scraped stays.
                last = metrics.totals(self._collected.pop(channel))
                self._totals = metrics.add_up([self._totals, last])
        status = process.returncode or 0
        if not self.serving[number].is_set() and status > 0:
            raise StartupError(failure or f"a process ended with status {status} as it started")
        if failure is not None:
            log.warning("process_not_started", number=number, cause=failure)
        return status

    async def _start(self, channel_end: socket.socket) -> Process:
        descriptors = [channel_end.fileno(), *self._listening]
        # In a new session: Ctrl-C in the terminal reaches only the parent, which stops the children.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *_path_flags(), "-m", "genstatus_server", "serve"),
            env=self._environment | {INHERITED: ",".join(map(str, descriptors))},
            pass_fds=descriptors,
            start_new_session=True,
        )

    def _kill_all(self) -> None:
        """A process that hangs would not notice the end of this one, and would keep the port."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _stop(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.Signals[self._shutdown.signal or "SIGTERM"])
        try:
            async with asyncio.timeout(self._shutdown.delay + self._kill_seconds):
                await process.wait()
        except TimeoutError:
            log.warning("process_killed", pid=process.pid, hint="it did not end in shutdown_delay + drain_timeout")
            process.kill()
            await process.wait()

    async def _exposition(self) -> str:
        """The metrics of all processes, those that died included, in Prometheus' text format."""
        await asyncio.gather(*map(self._refresh, tuple(self._collected)))
        of_all = (self._totals, *self._collected.values(), metrics.collect(self._own))
        return metrics.exposition(metrics.add_up(of_all))

    async def _refresh(self, channel: "Channel") -> None:
        # A process that hangs, or exits just now, is counted with the metrics of the last scrape.
        with contextlib.suppress(ConnectionError, TimeoutError):
            collected = json.loads(await channel.request())
            if channel in self._collected:
                self._collected[channel] = collected


def _path_flags() -> list[str]:
    """Have a child look for modules in the working directory only if this process does: `-m` alone looks there."""
    with contextlib.suppress(OSError):  # The directory may be gone.
        if sys.path[0] in {"", str(Path.cwd())}:
            return []
    return ["-P"]


def _environment(settings: Settings, s3_keys: tuple[str, str] | None) -> dict[str, str]:
    """The environment of a child: every option, which is how secrets stay off the command line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    for name in ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # The parent speaks to systemd.
        environment.pop(name, None)
    for option in OPTIONS:
        value = 1 if option.name == "processes" else getattr(settings, option.name)
        if value not in (None, ()):
            environment[option.environment] = ",".join(value) if isinstance(value, tuple) else str(value)
    if s3_keys is not None:
        environment |= {"AWS_ACCESS_KEY_ID": s3_keys[0], "AWS_SECRET_ACCESS_KEY": s3_keys[1]}
        environment.pop("AWS_SESSION_TOKEN", None)
    return environment


class Channel:
    """One end. `reply` makes the text that the other end requests.

    `on_start` is called when the other end has told that it serves, with None, or why it cannot start. `ended` is set
    when the other end is gone, and everything that it sent has been read.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._requests: dict[int, asyncio.Future[str]] = {}
        self._replying: set[asyncio.Task[None]] = set()
        self.reply: Callable[[], Awaitable[str]] = _nothing
        self.on_start: Callable[[str | None], object] = lambda _: None
        self.ended = asyncio.Event()

    def tell_start(self, failure: str | None = None) -> None:
        """Tell the other end that this process serves, or why it cannot start."""
        with contextlib.suppress(ConnectionError):
            self._send({"failure": failure})

    async def request(self, timeout: float = REPLY_SECONDS) -> str:  # noqa: ASYNC109 - as `asyncio.wait_for`
        """The text of the other end. Raises `ConnectionError` where that is gone, `TimeoutError` where it hangs."""
        number = next(self._numbers)
        self._requests[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"request": number})
            async with asyncio.timeout(timeout):
                return await self._requests[number]
        finally:
            del self._requests[number]

    async def run(self) -> None:
        """Reply, and take replies, until the other end is gone."""
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):  # Else it was cut off: its writer died.
                self._take(json.loads(line))
        except ConnectionError:
            pass
        finally:
            for future in self._requests.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the other end is gone"))
            for task in self._replying:
                task.cancel()
            self._writer.close()
            self.ended.set()

    def _take(self, message: dict[str, object]) -> None:
        if "request" in message:
            # A task: the parent, to reply, sends requests itself, and their replies come through `run`.
            task = asyncio.create_task(self._reply_to(message["request"]))
            self._replying.add(task)
            task.add_done_callback(self._replying.discard)
            return
        if "failure" in message:
            failure = message["failure"]
            self.on_start(None if failure is None else str(failure))
            return
        future = self._requests.get(int(str(message["reply"])))
        if future is not None and not future.done():
            future.set_result(str(message["text"]))

    async def _reply_to(self, number: object) -> None:
        text = await self.reply()
        with contextlib.suppress(ConnectionError):
            self._send({"reply": number, "text": text})

    def _send(self, message: dict[str, object]) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("the other end is gone")
        self._writer.write(json.dumps(message).encode() + b"\n")


@asynccontextmanager
async def open_channel(end: socket.socket, on_gone: Callable[[], object] = lambda: None) -> AsyncIterator[Channel]:
    """A channel on `end`, one of a pair of Unix sockets, while the block lasts; `on_gone`: the other end has gone."""
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=_LIMIT)
    channel = Channel(reader, writer)
    running = asyncio.create_task(channel.run(), name="channel")
    running.add_done_callback(lambda task: None if task.cancelled() else on_gone())
    try:
        yield channel
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _nothing() -> str:
    return "[]"


def metrics_collector(metrics: Metrics, parent: Channel | None) -> Callable[[], Awaitable[str]]:
    """A function that returns the metrics of all processes of this server, in Prometheus' text format.

    `parent` can request those of this process. The function raises `ServiceUnavailable` where those of all cannot be
    had: to Prometheus, those of one process alone would look like a server that was restarted.
    """

    async def own() -> str:
        return json.dumps(collect(metrics.registry))

    async def of_all() -> str:
        if parent is None:
            return exposition(collect(metrics.registry))
        try:
            return await parent.request(_ALL_METRICS_SECONDS)
        except (ConnectionError, TimeoutError) as cause:
            raise ServiceUnavailable from cause

    if parent is not None:
        parent.reply = own
    return of_all
