"""Runs a program under the guard for as long as a block lasts, and waits until it is ready."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from genstatus_server.demo.embedded.folder import free_port
from genstatus_server.model.errors import StartupError

_GUARD = Path(__file__).with_name("guard.py")

#: Seconds until a start is given up. A start takes well under one; a slow disk after a crash may need many.
_READY_TIMEOUT = 60.0
_PORT_ATTEMPTS = 5
_POLL = 0.01


class PortTaken(StartupError):
    """Somebody else listens on the port, perhaps since a moment ago."""


def last_line(output: str) -> str:
    """The last line that says anything: the usual place of the reason why a program ended."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True)
class Program:
    """What to run. Its output goes nowhere, but for the line that `explain` finds where it ends early."""

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
    """Come back once `condition()` is true; asked about every 10 ms."""
    while not await condition():  # noqa: ASYNC110 - another process makes it true, and sets no event of ours
        await asyncio.sleep(_POLL)


async def is_listening(port: int) -> bool:
    """Whether somebody accepts connections on `port` of 127.0.0.1."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _start_guard(program: Program) -> Process:
    # A session of its own: Ctrl-C in the terminal must not reach the program before the server has drained.
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
