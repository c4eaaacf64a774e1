"""Runs one program and sees to it that the program never outlives the server that wanted it.

    python guard.py -- PROGRAM ARGUMENT...

The server holds the other end of the guard's stdin and writes nothing to it. When that ends, because the server
closes it or dies by any means, kill -9 included, the guard ends the program: SIGTERM, and SIGKILL `GRACE` seconds
later. Should the guard itself be killed, Linux kills the program in the same instant (PR_SET_PDEATHSIG); elsewhere
nothing does.

Letting the kernel alone do it, without a guard, would be shorter, but the signal is tied to the *thread* that started
the program, it is Linux only, and it has no second step for a program that hangs in its shutdown.

The program's output goes through here, so that its log can fill neither a disk nor a pipe that a busy server does not
read. The last `TAIL` bytes are kept in memory and printed only if the program ends by itself.

Standard library only, and run by path in isolated mode: it is up within 15 ms.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

#: Seconds that a program has to end by itself; mongod as a primary takes 1.0.
GRACE = 5.0
#: Bytes; less than a pipe holds, so that writing them cannot block.
TAIL = 32_768

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


def guard(program: Sequence[str], *, lifeline: int = 0, grace: float = GRACE) -> tuple[int, bytes]:
    """Run `program` until it ends, or until the file descriptor `lifeline` does and `grace` seconds have passed.

    Gives its exit status (128 + signal where it was killed) and the end of its output, which is empty where it was
    stopped. Must be called in the main thread, and keeps the signal handlers that it sets.
    """
    signals = _signals_as_bytes()
    pid, output = _start(program)
    watched = {lifeline, signals, output}
    tail = b""
    kill_at: float | None = None
    while True:
        timeout = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready = select.select(watched, [], [], timeout)[0]
        if output in ready:
            tail = _read_more(output, tail, watched)
        caught = os.read(signals, 64) if signals in ready else b""
        if kill_at is None and (lifeline in ready or any(number in caught for number in _STOP_SIGNALS)):
            watched.discard(lifeline)
            os.kill(pid, signal.SIGTERM)
            kill_at = time.monotonic() + grace
        elif kill_at is not None and time.monotonic() >= kill_at:
            os.kill(pid, signal.SIGKILL)
        ended, wait_status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
    while output in watched and select.select([output], [], [], 0)[0]:
        tail = _read_more(output, tail, watched)
    exit_code = os.waitstatus_to_exitcode(wait_status)
    return (exit_code if exit_code >= 0 else 128 - exit_code), (tail if kill_at is None else b"")


def _signals_as_bytes() -> int:
    """A file descriptor on which each caught signal appears as one byte, so that one `select` waits for everything."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    return reader


def _read_more(output: int, tail: bytes, watched: set[int]) -> bytes:
    """The end of the output so far; an output that has ended is watched no longer."""
    chunk = os.read(output, 65_536)
    if not chunk:
        watched.discard(output)
    return (tail + chunk)[-TAIL:]


def _start(program: Sequence[str]) -> tuple[int, int]:
    """Start `program`; its process id and the descriptor to read its stdout and stderr from."""
    reader, writer = os.pipe()
    guard_pid = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    # Block the stop signals during the fork. In the child, before exec, the guard's handler would swallow them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child, which becomes another program
        try:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard_pid:  # it died before this process asked for the signal
                os._exit(1)
            for number in (signal.SIGPIPE, signal.SIGCHLD, *_STOP_SIGNALS):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os.execv(program[0], list(program))  # noqa: S606 - no shell is what is wanted
        except OSError as error:
            os.write(2, f"{program[0]}: {error.strerror}\n".encode(errors="replace"))
        finally:
            os._exit(127)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    os.close(writer)
    return pid, reader


def main() -> int:
    """Run the program named behind `--`; print the end of its output where it ended of its own accord."""
    status, tail = guard(sys.argv[2:])
    sys.stdout.buffer.write(tail)
    return status


if __name__ == "__main__":
    sys.exit(main())
