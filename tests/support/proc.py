"""What Linux tells of a running process."""

from pathlib import Path
from typing import Final

#: Connections that MongoDB's driver may open at any time, and keeps: open files that nobody has leaked.
POOLED: Final = 10


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def soft_limit_of_files(pid: int) -> int:
    return int(_after("Max open files", Path(f"/proc/{pid}/limits")))


def resident_kilobytes(pid: int) -> int:
    """The memory that the process has now."""
    return int(_after("VmRSS:", Path(f"/proc/{pid}/status")))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_line(pid: int) -> bytes:
    """Its arguments, each ended by a zero byte; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def spawned_by(pid: int) -> list[int]:
    """Its children that multiprocessing has started, without the helpers of that."""
    return [child for child in children_of(pid) if b"spawn_main" in command_line(child)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # The second one where it ends between opening and reading.
        return False


def _after(label: str, path: Path) -> str:
    return path.read_text().partition(label)[2].split()[0]
