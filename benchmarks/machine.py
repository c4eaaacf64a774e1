"""What it runs on: which core is whose, how many files a process may open, and how that is told."""

import os
import platform
import resource
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

#: File descriptors of a process beside those of its connections.
OTHER_FILES: Final = 1000


@dataclass(frozen=True)
class Cores:
    """The core of the server that is measured, that of the load, and that of MongoDB."""

    server: int
    load: int
    mongodb: int

    def __str__(self) -> str:
        if self.server == self.load:
            return "ONE CORE for everything: the load takes from the server what it measures"
        where = "with the load" if self.mongodb == self.load else f"on core {self.mongodb}"
        return f"server on core {self.server}, load on core {self.load}, MongoDB {where}"


def find_cores() -> Cores:
    """The first three cores that there are; with fewer, MongoDB shares that of the load."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(cores[0], cores[min(1, len(cores) - 1)], cores[min(2, len(cores) - 1)])


def most_connections() -> int:
    """How many connections a process can have here; every process is started with the hard limit as its limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1_000_000 if hard == resource.RLIM_INFINITY else hard - OTHER_FILES


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def description() -> dict[str, str]:
    """The machine and the versions of what runs on it."""
    packages = ("tornado", "motor", "pymongo", "aiobotocore", "fastapi", "uvicorn")
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_gigabytes()} GB",
        "system": f"{_distribution()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(),
        **{package: version(package) for package in packages},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gigabytes() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return "unknown system"


def _commit() -> str:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
