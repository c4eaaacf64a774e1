"""Runs a program under the guard while a block lasts: its folder, its port, and the wait until it is ready."""

import asyncio
import fcntl
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from genstatus_server.model.errors import StartupError

_GUARD = Path(__file__).with_name("guard.py")

#: Seconds until a start is given up. A start takes well under one; a slow disk after a crash may need many.
_READY_TIMEOUT = 60.0
_PORT_ATTEMPTS = 5
_POLL = 0.01
#: Seconds to wait for the program of a server that was killed a moment ago; it is given 5 s to end (guard.GRACE).
_LEFTOVER_TIMEOUT = 10.0


class PortTaken(StartupError):
    """Another program listens on the port."""


def last_line(output: str) -> str:
    """The last line that says anything: the usual place of the reason why a program ended."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True)
class Program:
    """What to run. Its output is discarded. If it ends early, the error has the line that `explain` takes from it."""

    name: str  #: what the operator knows it by
    command: Sequence[str]
    lock: int  #: a file descriptor that it inherits
    env: Mapping[str, str] | None = field(default=None, repr=False)
    explain: Callable[[str], str] = last_line


@asynccontextmanager
async def running(program: Program, until_ready: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `program` while the block lasts, which begins once `until_ready()` has come back.

    Raises PortTaken or StartupError where the program ends early or is not ready in time.
    """
    guard = await _start_guard(program)
    try:
        await _wait_until_ready(guard, until_ready, program)
        yield
    finally:
        await _stop(guard)


async def enter_on_free_port(
    stack: AsyncExitStack, on_port: Callable[[int], AbstractAsyncContextManager[None]], port: int, *, fixed: bool
) -> int:
    """Enter `on_port(port)`, or another free port where that is taken and not `fixed`; gives the port it is now."""
    for _ in range(_PORT_ATTEMPTS):
        try:
            await stack.enter_async_context(on_port(port))
        except PortTaken:
            if fixed:
                raise
            port = free_port()
        else:
            return port
    raise StartupError(f"No free port found on 127.0.0.1 in {_PORT_ATTEMPTS} attempts")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once `condition()` is true; it is checked every 10 ms."""
    while not await condition():  # noqa: ASYNC110 - another process makes it true, and sets no event of ours
        await asyncio.sleep(_POLL)


async def is_listening(port: int) -> bool:
    """Whether a program accepts connections on `port` of 127.0.0.1."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _start_guard(program: Program) -> Process:
    # In a new session, so that Ctrl-C in the terminal does not reach the program before the server has drained.
    # Isolated and without site: nothing of the environment's Python settings, and a start in 15 ms.
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(_GUARD), "--", *program.command),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        env=program.env,
        pass_fds=(program.lock,),
        start_new_session=True,
    )


async def _wait_until_ready(guard: Process, until_ready: Callable[[], Awaitable[None]], program: Program) -> None:
    ready, ended = asyncio.ensure_future(until_ready()), asyncio.ensure_future(guard.wait())
    try:
        await asyncio.wait({ready, ended}, timeout=_READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            return ready.result()
        if ended.done():
            raise await _early_end(guard, program)
        raise StartupError(f"{program.name} was not ready within {_READY_TIMEOUT:.0f} s")
    finally:
        ready.cancel()
        ended.cancel()
        await asyncio.gather(ready, ended, return_exceptions=True)


async def _early_end(guard: Process, program: Program) -> StartupError:
    output = (await guard.stdout.read()).decode(errors="replace") if guard.stdout else ""
    if "address already in use" in output.lower():
        return PortTaken(f"{program.name} cannot start: its port is in use")
    reason = program.explain(output)
    return StartupError(f"{program.name} ended with status {guard.returncode} while starting: {reason}")


async def _stop(guard: Process) -> None:
    if guard.stdin is not None:
        guard.stdin.close()  # all it takes: should this task be cancelled now, the program ends nevertheless
    await guard.wait()


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
    """Create `folder` and its parents if they are missing, readable only by this user. Raises StartupError."""
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
    """A free port of 127.0.0.1. Another program may take it a moment later: see process.PortTaken."""
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
