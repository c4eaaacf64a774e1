"""The sockets that the server listens on: inherited from its parent, passed by systemd, or bound here."""

import errno
import os
import socket
from typing import Final

from tornado.netutil import bind_sockets, bind_unix_socket

from genstatus_server.model.errors import StartupError
from genstatus_server.settings import INHERITED, Settings
from genstatus_server.settings.kinds import UNIX

_BACKLOG: Final = 4096
#: The first descriptor that systemd passes, see sd_listen_fds(3).
_FIRST_PASSED: Final = 3
_ALL_MAY_CONNECT: Final = 0o666


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
    count = int(os.environ.get("LISTEN_FDS", "0"))
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
            raise StartupError(f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}") from error
    return bound


def _bind_path(path: str) -> socket.socket:
    """A Unix socket there; what is left of a server that has ended is replaced. Who may connect, the umask says."""
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    umask = os.umask(0)
    os.umask(umask)
    return bind_unix_socket(path, mode=_ALL_MAY_CONNECT & ~umask, backlog=_BACKLOG)
