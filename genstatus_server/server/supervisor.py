"""Several server processes that share one port: the parent listens, starts them, and replaces those that die."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from genstatus_server.server.channel import Channel, open_channel
from genstatus_server.server.sockets import inherited_descriptors
from genstatus_server.server.system import Shutdown, notify, usable_cores
from genstatus_server.settings import ENVIRONMENT_PREFIX, INHERITED, OPTIONS, Settings
from genstatus_server.telemetry import log, metrics

#: Seconds from a process's death to its replacement: the first, doubled after each that lived for less than a while.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
_A_WHILE: Final = 60.0
#: Seconds that a process may take beyond `drain_timeout` before it is killed.
_KILL_SECONDS: Final = 2.0


async def run_processes(
    settings: Settings,
    sockets: Sequence[socket.socket],
    shutdown: Shutdown,
    s3_keys: tuple[str, str] | None,
) -> None:
    """Keep `settings.processes` servers running on `sockets` until `shutdown` is set; then have each drain."""
    family = _Family(settings, sockets, s3_keys, shutdown)
    numbers = range(settings.processes or usable_cores())
    keepers = [asyncio.create_task(family.keep_running(number), name=f"process {number}") for number in numbers]
    notify("READY=1")
    await shutdown.wait()
    notify("STOPPING=1")
    for each in sockets:
        each.close()  # The processes have their own, and close them once they have drained.
    for keeper in keepers:
        keeper.cancel()
    await asyncio.gather(*keepers, return_exceptions=True)


@asynccontextmanager
async def channel_to_parent(shutdown: Shutdown) -> AsyncIterator[Channel | None]:
    """The channel to the parent, None without one; ends this process when the parent has ended, by whatever means."""
    descriptors = inherited_descriptors()
    if not descriptors:
        yield None
        return
    async with open_channel(socket.socket(fileno=descriptors[0]), on_gone=shutdown.parent_gone) as channel:
        yield channel


class _Family:
    """The parent's side: the server processes, and what they have counted."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        s3_keys: tuple[str, str] | None,
        shutdown: Shutdown,
    ) -> None:
        self._shutdown = shutdown
        self._environment = _environment(settings, s3_keys)
        self._listening = [each.fileno() for each in sockets]
        self._kill_seconds = settings.drain_timeout + _KILL_SECONDS
        self._collected: dict[Channel, metrics.Collected] = {}
        #: Of the processes that have exited.
        self._totals: metrics.Collected = []
        self._own = CollectorRegistry()
        self._restarts = Counter("genstatus_process_restarts", "Processes that died.", registry=self._own)
        self._own.register(metrics.DroppedLogRecords())

    async def keep_running(self, number: int) -> None:
        """Run a process, and another whenever it dies, until cancelled; then have it drain."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        while True:
            started = loop.time()
            try:
                status: object = await self._run_one()
            except OSError as error:  # Too many processes, or no memory: it may work in a moment.
                status = error.strerror
            lived = loop.time() - started
            pause = FIRST_PAUSE if lived >= _A_WHILE else pause
            self._restarts.inc()
            log.warning("process_died", number=number, status=status, next_start_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _run_one(self) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await self._start(theirs)
            except BaseException:
                ours.close()  # Where the process runs after all, it ends now.
                raise
        async with open_channel(ours) as channel:
            channel.reply = self._exposition
            self._collected[channel] = []
            try:
                return await process.wait()
            except asyncio.CancelledError:
                await self._stop(process)
                raise
            finally:
                # What was counted after the last scrape is lost; what was scraped stays.
                last = metrics.totals(self._collected.pop(channel))
                self._totals = metrics.add_up([self._totals, last])

    async def _start(self, channel_end: socket.socket) -> Process:
        descriptors = [channel_end.fileno(), *self._listening]
        # A session of its own: Ctrl-C in the terminal reaches the parent, and only the parent tells the children.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "genstatus_server", "serve"),
            env=self._environment | {INHERITED: ",".join(map(str, descriptors))},
            pass_fds=descriptors,
            start_new_session=True,
        )

    async def _stop(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT if self._shutdown.signal == "SIGINT" else signal.SIGTERM)
        try:
            async with asyncio.timeout(self._shutdown.delay + self._kill_seconds):
                await process.wait()
        except TimeoutError:
            log.warning("process_killed", pid=process.pid, hint="it did not end within drain_timeout")
            process.kill()
            await process.wait()

    async def _exposition(self) -> str:
        """The metrics of all processes, those that died included, in Prometheus' text format."""
        await asyncio.gather(*map(self._refresh, tuple(self._collected)))
        of_all = (self._totals, *self._collected.values(), metrics.collect(self._own))
        return metrics.exposition(metrics.add_up(of_all))

    async def _refresh(self, channel: Channel) -> None:
        # A process that hangs, or exits just now, is counted with the metrics of the last scrape.
        with contextlib.suppress(ConnectionError, TimeoutError):
            collected = json.loads(await channel.request())
            if channel in self._collected:
                self._collected[channel] = collected


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
