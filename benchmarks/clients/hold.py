"""Many held requests out of one cheap process: raw sockets in one loop, and nothing but the standard library.

The first line of stdin is a JSON object: `port` on 127.0.0.1, and `requests`, a list of `[path, token]`. It prints
`{"began": …, "sent": …}` once all are sent, and when all are newest_time, or at the second line of stdin, a list of
`[index, time, status, X-Wait-Result, body]`; all times are of the monotonic clock, in seconds.
"""

import asyncio
import gc
import json
import re
import sys
import time
from functools import partial
from typing import Any, Final

from benchmarks.procfs import accept_queue

#: Connections that wait to be accepted. Above its listener's backlog the system drops them, and tries again after
#: one second, two more, four more: that would be measured, and not the server.
_MOST_WAITING: Final = 512
_AT_ONCE: Final = 128
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_WAIT_RESULT: Final = re.compile(rb"\r\nx-wait-result: *([a-z]+)", re.IGNORECASE)


class Held(asyncio.Protocol):
    """One connection with one request. Of an answer it only notes when it came: all else can wait."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.buffer = b""
        self.needed = 0
        self.answered_at: float | None = None
        self.is_lost = False

    def connection_made(self, transport: Any) -> None:
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        at = time.monotonic()
        self.buffer += data
        if not self.needed:
            end, length = self.buffer.find(b"\r\n\r\n"), _LENGTH.search(self.buffer)
            self.needed = end + 4 + int(length[1]) if end > 0 and length else 0
        if self.needed and len(self.buffer) >= self.needed:
            self.answered_at = at

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.is_lost = True

    def described(self, index: int) -> list[Any]:
        head, _, body = self.buffer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1]) if self.answered_at is not None else 0
        result = _WAIT_RESULT.search(head)
        return [index, self.answered_at, status, result[1].decode() if result else "", body.decode(errors="replace")]


def _same(held: Held) -> Held:
    return held


async def send_all(port: int, requests: list[bytes]) -> list[Held]:
    loop = asyncio.get_running_loop()
    held = [Held(request) for request in requests]
    for first in range(0, len(held), _AT_ONCE):
        while accept_queue(port) > _MOST_WAITING:  # noqa: ASYNC110 - the system says it nowhere else
            await asyncio.sleep(0.002)
        some = (partial(_same, one) for one in held[first : first + _AT_ONCE])
        await asyncio.gather(*(loop.create_connection(one, "127.0.0.1", port) for one in some))
    return held


async def main() -> None:
    params = json.loads(sys.stdin.readline())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Session-ID: {token}\r\n\r\n".encode()
        for path, token in params["requests"]
    ]
    gc.freeze()
    gc.disable()  # A collection over all connections would be measured as the server's pause.
    began = time.monotonic()
    held = await send_all(params["port"], requests)
    print(json.dumps({"began": began, "sent": time.monotonic()}), flush=True)  # noqa: T201 - its purpose
    open_ones = set(held)
    while open_ones and not stop.is_set():
        await asyncio.sleep(0.02)  # To set an event would lie in each answer's way.
        open_ones = {one for one in open_ones if one.answered_at is None and not one.is_lost}
    print(json.dumps([one.described(index) for index, one in enumerate(held)]), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    asyncio.run(main())
