"""What the tests run in Node: the packages that tests/e2e/npm pins, installed where they are not."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.support.requirements import require

FOLDER: Final = Path(__file__).parents[1] / "e2e" / "npm"
#: The oldest that vite runs on.
_NODE: Final = (20, 19)
_INSTALL_SECONDS: Final = 300
_RUN_SECONDS: Final = 120
_QUIET: Final = {"NO_UPDATE_NOTIFIER": "1", "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}


def installed() -> Path:
    """The folder `node_modules` with all of them; `npm ci` fills it once for each lock file."""
    npm = shutil.which("npm")
    require(npm, "npm installs what these tests run in Node (Debian: apt-get install npm)")
    version = tuple(map(int, _run(["node", "--version"], FOLDER, _RUN_SECONDS).stdout.strip("v\n").split(".")))
    require(version >= _NODE, f"Node {'.'.join(map(str, _NODE))} or newer runs these packages, and here is {version}")
    modules = FOLDER / "node_modules"
    wanted = (FOLDER / "package-lock.json").read_bytes()
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several tests may begin at once.
        stamp = modules / ".installed-for"
        if not stamp.exists() or stamp.read_bytes() != wanted:
            done = _run(["npm", "ci", "--prefer-offline"], FOLDER, _INSTALL_SECONDS)
            require(done.returncode == 0, f"npm ci failed, so these tests cannot run:\n{done.stderr}")
            stamp.write_bytes(wanted)
    return modules


def run(program: str, *arguments: str, cwd: Path = FOLDER) -> str:
    """What a program of these packages prints; it must end well."""
    done = _run([str(installed() / ".bin" / program), *arguments], cwd, _RUN_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(*arguments: str, cwd: Path = FOLDER) -> str:
    """What npm itself prints; it must end well."""
    done = _run(["npm", *arguments], cwd, _RUN_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _run(command: list[str], cwd: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    environment = os.environ | _QUIET
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
