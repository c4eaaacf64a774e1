"""The folder of one embedded program: who uses it now, and the port that it had last time."""

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from genstatus_server.model.errors import StartupError

#: Seconds to wait for the program of a server that was killed a moment ago; it is given 5 s to end (guard.GRACE).
_LEFTOVER_TIMEOUT = 10.0
_POLL = 0.02


@asynccontextmanager
async def owned_folder(folder: Path) -> AsyncIterator[int]:
    """Make `folder` (mode 0700) and hold it; yields the file descriptor to hand on to the program that works in it.

    Two locks tell a running server from a leftover. `server.lock` is this process's: where another has it, that is an
    error at once. `program.lock` is inherited by the program, so where only that is taken, the server was killed and
    its program is about to end: then this waits. Both are released by the kernel, however a process ends.

    Raises StartupError where the folder is in use by another server, or cannot be made or written to.
    """
    make_private_folder(folder)
    with _opened(folder / "server.lock") as server_lock, _opened(folder / "program.lock") as program_lock:
        if not _try_lock(server_lock):
            raise StartupError(f"The folder {folder} is in use by another running server")
        await _lock_when_free(program_lock, folder)
        yield program_lock


def make_private_folder(folder: Path) -> None:
    """Make `folder`, and those above it, where it is missing; nobody else may look into it. Raises StartupError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise StartupError(f"Cannot use the folder {folder}: {error.strerror}") from error


def choose_port(folder: Path, wanted: int | None) -> int:
    """The port to listen on: the `wanted` one, else the one of last time, else any that is free."""
    if wanted is not None:
        return wanted
    last = saved_port(folder)
    return last if last is not None and _is_free(last) else free_port()


def saved_port(folder: Path) -> int | None:
    """The port of last time, None where there is none or where that start did not come to its end."""
    try:
        return int((folder / "port").read_text())
    except (FileNotFoundError, ValueError):
        return None


def save_port(folder: Path, port: int | None) -> None:
    """Save `port` for the next start, whole or not at all. None deletes the saved one."""
    if port is None:
        (folder / "port").unlink(missing_ok=True)
        return
    new = folder / "port.new"
    new.write_text(f"{port}\n")
    new.replace(folder / "port")


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now. Somebody may a moment later: see process.PortTaken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as both programs do: old connections don't count
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartupError(f"Cannot write to the folder {path.parent}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _lock_when_free(descriptor: int, folder: Path) -> None:
    deadline = asyncio.get_running_loop().time() + _LEFTOVER_TIMEOUT
    while not _try_lock(descriptor):
        if asyncio.get_running_loop().time() > deadline:
            raise StartupError(f"The folder {folder} is in use by a program that a server which was killed left behind")
        await asyncio.sleep(_POLL)
