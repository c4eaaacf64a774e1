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


def _after(label: str, path: Path) -> str:
    return path.read_text().partition(label)[2].split()[0]
