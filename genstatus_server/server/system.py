"""The process and its system: the signals that end it, what systemd is told, open files and cores."""

import asyncio
import math
import os
import resource
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from genstatus_server.settings import Settings
from genstatus_server.telemetry import log

#: Seconds that the log has when a second signal ends the process.
_LOG_SECONDS: Final = 0.1
#: File descriptors beside those of the held requests: MongoDB, S3, logs, plain requests.
_OTHER_FILES: Final = 1000
_ROOT: Final = Path("/")


class Shutdown(asyncio.Event):
    """Set once the server has to end, by `signal`, or None where its parent process is gone.

    For `delay` seconds from then on it still accepts and answers everything, so that load balancers notice.
    """

    def __init__(self, delay: float = 0) -> None:
        super().__init__()
        self.delay = delay
        self.signal: str | None = None

    def listen(self) -> None:
        """Be set by SIGTERM, SIGHUP or SIGINT, which skips the delay; a second one ends the process at once.

        SIGHUP stays ignored where it is, which is what `nohup` does. SIGUSR1 and SIGUSR2 are ignored.
        """
        loop = asyncio.get_running_loop()
        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            ends.append(signal.SIGHUP)
        for each in ends:
            loop.add_signal_handler(each, self._on_signal, each)
        for each in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)

    def parent_gone(self) -> None:
        """Be set at once: whoever starts the server again needs its port."""
        if self.is_set():
            self._end(1)
        self.delay = 0
        self.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self.is_set():
            self._end(128 + number)
        self.signal = number.name
        if number is signal.SIGINT:
            self.delay = 0
        self.set()

    @staticmethod
    def _end(status: int) -> NoReturn:
        log.wait_written(_LOG_SECONDS)
        os._exit(status)


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`; nothing where nobody wants to know, or nobody listens any more."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return


def within_file_limit(settings: Settings) -> Settings:
    """`settings` with no more holds than there can be open files.

    The soft limit is raised to what `max_waits` needs. Where the hard limit forbids it that is said, and `max_waits` is
    cut, so that requests which cannot be held are still answered.
    """
    needed = settings.max_waits + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible == needed:
        return settings
    max_waits = min(settings.max_waits, max(possible - _OTHER_FILES, possible // 2))
    hint = "set max_waits to that, or raise the hard limit on open files (ulimit -Hn)"
    log.warning("file_limit_low", limit=possible, needed=needed, max_waits=max_waits, hint=hint)
    return replace(settings, max_waits=max_waits)


def usable_cores(root: Path = _ROOT) -> int:
    """The cores that it may run on, or as many as its CPU quota is worth, rounded up, where that is less."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([available, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of its control groups and of those around them, in cores, of cgroup v1 and v2."""
    for folder in _groups(root):
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if quota != "max" and int(quota) > 0:
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue


def _groups(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # Not Linux.
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / (controllers and "cpu")
        # In a container the path may be the one on the machine, which is not there: then the mount is the group itself.
        for inner in (Path(path), *Path(path).parents):
            yield mounted / inner.relative_to("/")
