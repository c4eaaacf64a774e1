"""How many cores this process may use: fewer than the machine has, in a container."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")


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
