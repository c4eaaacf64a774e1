"""Three mongods on loopback, which a test can kill, stop, freeze and start again."""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from genstatus_server.demo.embedded.mongod import running_mongod
from genstatus_server.demo.embedded.process import free_port
from tests.support.embedded_processes import processes_in
from tests.support.processes import wait_until

T = TypeVar("T")
Client = pymongo.MongoClient[dict[str, Any]]

NAME = "faults"
#: Elections in about a second and not in ten; the server knows nothing of it.
SETTINGS = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200}


class Background:
    """A loop in a thread of its own, for what a test that blocks wants to have run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 90) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Node:
    """One mongod, always on the same port and in the same folder; a member of a set unless `replica_set` is None."""

    def __init__(
        self, background: Background, folder: Path, replica_set: str | None = None, arguments: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self._background = background
        self._folder = folder
        self._replica_set = replica_set
        self._arguments = arguments
        self._stack = AsyncExitStack()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?directConnection=true"

    @property
    def pid(self) -> int:
        return processes_in(self._folder, program="mongod")[-1]

    def start(self) -> None:
        mongod = running_mongod(
            self._folder,
            port=self.port,
            replica_set=self._replica_set,
            initiate=False,
            extra_args=self._arguments,
        )
        self._background.run(self._stack.enter_async_context(mongod))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Whatever runs of it ends; it can be started again."""
        with suppress(IndexError, ProcessLookupError):  # The second one where it is just ending.
            self.signal(signal.SIGCONT)
        self._background.run(self._stack.aclose())

    def wait_ended(self) -> None:
        wait_until(lambda: not processes_in(self._folder, program="mongod"), "mongod has ended")
        self.stop()


class ReplicaSet:
    """The nodes, and a client of theirs."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.uri = f"mongodb://{','.join(node.address for node in nodes)}/?replicaSet={NAME}"

    def initiate(self, arbiters: int = 0) -> None:
        """Make a set of the nodes, of which the last ones are arbiters."""
        members = [{"_id": number, "host": node.address} for number, node in enumerate(self.nodes)]
        for member in members[len(members) - arbiters :]:
            member["arbiterOnly"] = True
        with Client(self.nodes[0].uri) as client:
            client.admin.command("replSetInitiate", {"_id": NAME, "members": members, "settings": SETTINGS})
        self.wait_whole()

    def hello(self, node: Node) -> dict[str, Any]:
        """What the node says of itself; nothing where it does not answer."""
        try:
            with Client(node.uri, serverSelectionTimeoutMS=500, socketTimeoutMS=500, connectTimeoutMS=500) as client:
                return client.admin.command("hello")
        except PyMongoError:
            return {}

    def command(self, node: Node, name: str, value: object = 1, **options: object) -> dict[str, Any]:
        """Have the node carry out an admin command."""
        with Client(node.uri) as client:
            answer: dict[str, Any] = client.admin.command({name: value, **options})
            return answer

    def primary(self) -> Node | None:
        return next((node for node in self.nodes if self.hello(node).get("isWritablePrimary")), None)

    def wait_primary(self, *, other_than: Node | None = None) -> Node:
        found: list[Node] = []

        def is_there() -> bool:
            found[:] = [node for node in self.nodes if node is not other_than]
            found[:] = [node for node in found if self.hello(node).get("isWritablePrimary")]
            return bool(found)

        wait_until(is_there, "a primary", 60)
        return found[0]

    def wait_whole(self) -> None:
        """Wait until every node is what it should be, and one of them the primary."""

        def is_whole() -> bool:
            answers = [self.hello(node) for node in self.nodes]
            primaries = [answer for answer in answers if answer.get("isWritablePrimary")]
            states = ("isWritablePrimary", "secondary", "arbiterOnly")
            return len(primaries) == 1 and all(any(map(answer.get, states)) for answer in answers)

        wait_until(is_whole, "all nodes in the set", 90)

    def restore(self) -> None:
        """Start again what a test has left dead."""
        for node in self.nodes:
            if not self.hello(node):
                node.stop()
                node.start()
        self.wait_whole()


@contextmanager
def background() -> Iterator[Background]:
    made = Background()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def running_node(folder: Path, replica_set: str | None = None, arguments: Sequence[str] = ()) -> Iterator[Node]:
    """One node, running."""
    with background() as loop:
        node = Node(loop, folder / "node", replica_set, arguments)
        node.start()
        try:
            yield node
        finally:
            node.stop()


@contextmanager
def running_replica_set(
    folder: Path, count: int = 3, *, arbiters: int = 0, arguments: Sequence[str] = ()
) -> Iterator[ReplicaSet]:
    """A whole set of `count` nodes, of which the last ones are arbiters."""
    with background() as loop:
        nodes = [Node(loop, folder / f"node-{number}", NAME, arguments) for number in range(count)]
        try:
            for node in nodes:
                node.start()
            made = ReplicaSet(nodes)
            made.initiate(arbiters)
            yield made
        finally:
            for node in nodes:
                node.stop()
