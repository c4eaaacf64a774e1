"""The embedded MongoDB: a real mongod, by default as a replica set of one, on loopback, with a folder that lasts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from genstatus_server.demo.embedded.find_mongod import find_mongod
from genstatus_server.demo.embedded.folder import choose_port, owned_folder, save_port, saved_port
from genstatus_server.demo.embedded.process import Program, enter_on_free_port, is_listening, last_line, running, until

_NOT_YET_INITIALIZED: Final = 94

#: An oplog of 64 MB and a cache of 0.25 GB, for trying and testing. No diagnostic data: nobody would look at it.
_ARGUMENTS: Final = (
    *("--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"),
    *("--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"),
    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
)


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

        A set's configuration names its members by host and port, and a member that does not find itself in there is
        none. Doing that afterwards with a forced reconfiguration takes 30 s where somebody silent has the old port:
        mongod connects to it to see whether that is itself. So this follows the manual's "change hostnames": start
        without --replSet, write, stop, start again. Nothing is lost by it, even after a crash: the start that follows
        replays the oplog (there is a test).
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
    # Somebody else's mongod may have taken the port before ours could: then ours is about to end.
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
        await client.admin.command("replSetInitiate", {"_id": replica_set, "members": members})
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
