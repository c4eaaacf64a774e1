"""The process and its system: signals, systemd, open files, cores, and the sockets that the server listens on."""

import asyncio
import contextlib
import errno
import math
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from tornado.netutil import bind_sockets, bind_unix_socket

from genstatus_server.model.errors import StartupError
from genstatus_server.settings import INHERITED, Settings
from genstatus_server.settings.kinds import UNIX
from genstatus_server.telemetry import log

#: Seconds for the log to be written when a second signal ends the process.
_LOG_SECONDS: Final = 0.1
#: File descriptors beside those of the held requests: MongoDB, S3, logs, plain requests.
_OTHER_FILES: Final = 1000
#: Seconds for which the server stands still, at the most, until systemd takes a message.
_NOTIFY_SECONDS: Final = 1.0
_ROOT: Final = Path("/")
_BACKLOG: Final = 4096
#: The first descriptor that systemd passes, see sd_listen_fds(3).
_FIRST_PASSED: Final = 3
_ALL_MAY_CONNECT: Final = 0o666


class Shutdown(asyncio.Event):
    """Set when the server has to end. `signal` is the signal's name, None where the parent process is gone.

    The server accepts and answers requests for `delay` more seconds, so that load balancers notice.
    """

    def __init__(self, delay: float = 0) -> None:
        super().__init__()
        self.delay = delay
        self.signal: str | None = None
        #: A process with a parent leaves it to the parent to end it at once.
        self.has_parent = False
        #: Called before a second signal ends this process.
        self.on_second_signal: Callable[[], object] = lambda: None

    def handle_signals(self) -> None:
        """Set it at SIGTERM, SIGHUP or SIGINT; SIGINT skips the delay. A second signal ends the server at once.

        If SIGHUP is already ignored, as under `nohup`, it stays ignored.
        """
        loop = asyncio.get_running_loop()
        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            ends.append(signal.SIGHUP)
        for each in ends:
            loop.add_signal_handler(each, self._on_signal, each)

    def parent_gone(self) -> None:
        """End without a delay: a server that is started again needs the port."""
        if self.is_set():
            self.exit_now(1)
        self.delay = 0
        self.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self.is_set():
            if self.has_parent:  # One signal went to all processes, and this one is what the parent makes of it.
                return
            self.on_second_signal()
            self.exit_now(128 + number)
        self.signal = number.name
        if number is signal.SIGINT:
            self.delay = 0
        self.set()

    def skip_delay(self) -> None:
        """Let what is started end at once, as SIGINT does."""
        self.signal, self.delay = signal.SIGINT.name, 0

    def exit_within(self, seconds: float) -> None:
        """End this process after `seconds`, with status 0, whatever keeps it from its end: a driver's thread may."""
        timer = threading.Timer(seconds, self.exit_now, [0])
        timer.daemon = True
        timer.start()

    @staticmethod
    def exit_now(status: int) -> NoReturn:
        """End this process, once its log is written."""
        log.wait_written(_LOG_SECONDS)
        os._exit(status)


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`, to systemd. Do nothing where the server was not started by it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # No file descriptor may be left, and systemd may not read: neither keeps the server from what it is about to do.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(_NOTIFY_SECONDS)
        sender.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


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
    hint = f"set max_waits to {max_waits}, or raise the hard limit on open files (ulimit -Hn)"
    log.warning("file_limit_low", limit=possible, needed=needed, max_waits=max_waits, hint=hint)
    return replace(settings, max_waits=max_waits)


def usable_cores(root: Path = _ROOT) -> int:
    """The number of cores that this process may use: its CPU affinity, or its CPU quota rounded up if that is less."""
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
        # In a container the path may be that on the host, which does not exist here. The mount is then the group.
        for inner in (Path(path), *Path(path).parents):
            yield mounted / inner.relative_to("/")


def open_sockets(settings: Settings) -> list[socket.socket]:
    """The sockets to listen on. Raises `StartupError`."""
    return [socket.socket(fileno=each) for each in inherited_descriptors()[1:]] or _passed() or _bind(settings)


def inherited_descriptors() -> list[int]:
    """What the parent process has given this one: its end of the channel, then the sockets; empty without a parent."""
    text = os.environ.get(INHERITED, "")
    return [int(number) for number in text.split(",")] if text else []


def url_of(listening: socket.socket) -> str:
    """Where clients find the server."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"{UNIX}{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _passed() -> list[socket.socket]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(os.environ.get("LISTEN_FDS", "0"))
    except ValueError as error:
        raise StartupError("LISTEN_FDS is no number") from error
    return [_checked(descriptor) for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + count)]


def _checked(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's
        passed = socket.socket(fileno=descriptor)
        if passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return passed
    except OSError as error:
        raise StartupError(f"systemd passed no socket as descriptor {descriptor}: {error.strerror}") from error
    raise StartupError("systemd passed a connection: set ListenStream= and Accept=no in the socket unit")


def _bind(settings: Settings) -> list[socket.socket]:
    bound: list[socket.socket] = []
    port = settings.port
    for address in settings.address.split(","):
        try:
            if address.startswith(UNIX):
                bound.append(_bind_path(address.removeprefix(UNIX)))
            else:
                more = bind_sockets(port, address, backlog=_BACKLOG)
                port = more[0].getsockname()[1]  # A free one that was picked is that of every address.
                bound.extend(more)
        except (OSError, ValueError) as error:  # ValueError: a file that is no socket is in the way.
            where = address if address.startswith(UNIX) else f"port {port} of {address}"
            for each in bound:
                if each.family == socket.AF_UNIX:
                    Path(each.getsockname()).unlink(missing_ok=True)
                each.close()
            raise StartupError(f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}") from error
    return bound


def _bind_path(path: str) -> socket.socket:
    """A Unix socket at this path. It replaces the file of a server that has ended. The umask says who may connect."""
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    umask = os.umask(0)
    os.umask(umask)
    return bind_unix_socket(path, mode=_ALL_MAY_CONNECT & ~umask, backlog=_BACKLOG)
