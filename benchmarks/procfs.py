"""What a process has used, with its children: read from /proc, so that nothing has to run inside it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def processes_of(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    for children in _of_each_thread(pid, "children"):
        for child in children.split():
            yield from processes_of(int(child))


def cpu_seconds(pid: int) -> float:
    """CPU time of the threads of the process and its descendants. Those of the scheduler: to the nanosecond."""
    threads = (schedstat for each in processes_of(pid) for schedstat in _of_each_thread(each, "schedstat"))
    return sum(int(schedstat.split()[0]) for schedstat in threads) / 1e9


def memory(pid: int) -> int:
    """Bytes that the process and its descendants have made, not those of files such as programs and libraries."""
    return sum(_own_memory(each) for each in processes_of(pid))


def accept_queue(port: int) -> int:
    """Connections to `port` of 127.0.0.1 that the system has made and its listener has not accepted yet."""
    address = f"0100007F:{port:04X}"
    with Path("/proc/net/tcp").open() as table:
        for line in table:  # The listeners come first: nothing behind them is read.
            fields = line.split()
            if fields[1] == address and fields[3] == "0A":
                return int(fields[4].partition(":")[2], 16)
    return 0


def _of_each_thread(pid: int, name: str) -> Iterator[str]:
    """What stands in the file `name` of each thread; one that has ended meanwhile has none."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            yield (thread / name).read_text()


def _own_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
