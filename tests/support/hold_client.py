"""Many held requests out of one cheap process: raw sockets in one loop, and nothing but the standard library.

    {"host": …, "port": …, "requests": ["/path", …], "token": …, "loop": false, "pause": 1}

is its first line on stdin. Prints `sent` once every request was sent, and in the end one JSON list with what became of
each: `at` is the wall clock's time. With `loop`, a client that is told to wait asks again, as long as it is not told to
stop. Another line on stdin tells what the clients do: `fin` and `rst` leave, by either means; `vanish` leaves without a
word, as a machine does that loses its power; `stop` has each take its last answer.
"""

import asyncio
import json
import re
import resource
import socket
import struct
import sys
import time
from typing import Any

#: Connections that are opened at the same time: fewer than any backlog.
AT_ONCE = 200
#: Seconds after which a client that was not answered gives up.
PATIENCE = 400.0
_TCP_REPAIR = 19
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One connection, and the answer that is waited for on it."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if separator and length and len(body) >= int(length[1]) and not self.answer.done():
            self.buffer = b""
            self.answer.set_result((head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc or EOFError("closed without an answer"))
            self.answer.exception()  # Seen, also where its client has left.


class Clients:
    """All of them."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.connections: set[Connection] = set()
        self.results: list[dict[str, Any]] = []
        self.stopping = False
        self._free = asyncio.Semaphore(AT_ONCE)
        self._unsent = len(options["requests"])

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(sys.stdin, self._obey)
        clients = [asyncio.create_task(self._client(path)) for path in self.options["requests"]]
        await asyncio.gather(*clients)
        print(json.dumps(self.results), flush=True)  # noqa: T201 - it is what this program is for

    async def _client(self, path: str) -> None:
        while True:
            result = await self._ask(path)
            self.results.append(result)
            if self.stopping or not self.options["loop"] or result.get("generation") not in (None, "waiting"):
                return
            await asyncio.sleep(float(result.get("retry_after") or 1) * self.options["pause"])

    async def _ask(self, path: str) -> dict[str, Any]:
        result: dict[str, Any] = {"path": path}
        connection = None
        try:
            async with asyncio.timeout(PATIENCE):
                async with self._free:
                    connection = await self._send(path)
                head, body = await connection.answer
            result |= described(head, body)
        except (OSError, EOFError, TimeoutError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
        finally:
            result["at"] = time.time()
            if connection is not None:
                self.connections.discard(connection)
                connection.transport.close()
        return result

    async def _send(self, path: str) -> Connection:
        address = self.options["host"], self.options["port"]
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *address)
        self.connections.add(connection)
        token = self.options["token"]
        connection.transport.write(f"GET {path} HTTP/1.1\r\nHost: faults\r\nX-Session-ID: {token}\r\n\r\n".encode())
        self._unsent -= 1
        if self._unsent == 0:
            print("sent", flush=True)  # noqa: T201 - the same
        return connection

    def _obey(self) -> None:
        order = sys.stdin.readline().strip()
        self.stopping = True
        if order == "stop":
            return
        for connection in list(self.connections):
            leave(connection, order)


def leave(connection: Connection, how: str) -> None:
    sock = connection.transport.get_extra_info("socket")
    if how == "fin":
        connection.transport.close()
    elif how == "rst":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.transport.abort()
    else:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)  # What is closed under repair is closed in silence.
        connection.transport.abort()


def described(head: bytes, body: bytes) -> dict[str, Any]:
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    content = json.loads(body) if headers.get("content-type", "").startswith("application/json") else {}
    return {
        "status": int(lines[0].split()[1]),
        "generation": content.get("status"),
        "job_id": content.get("job_id"),
        "url": content.get("url"),
        "result": headers.get("x-wait-result"),
        "connection": headers.get("connection"),
        "retry_after": headers.get("retry-after"),
    }


if __name__ == "__main__":
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    asyncio.run(Clients(json.loads(sys.stdin.readline())).run())
