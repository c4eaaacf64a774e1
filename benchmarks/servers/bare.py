"""Tornado's bare handlers: what the framework costs by itself, without log and ETag.

    bare.py PORT BODY_FILE

`/` answers the fixed JSON of BODY_FILE, `/hold` holds until a POST to `/broadcast` answers all that are held with it,
`/held` says how many those are.
"""

import asyncio
import sys
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

held: set["asyncio.Future[None]"] = set()
body = Path(sys.argv[2]).read_bytes()


class Bare(RequestHandler):
    """The fixed answer."""

    def compute_etag(self) -> None:
        """None."""

    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.write(body)


class Hold(Bare):
    """The same, held."""

    waiting: "asyncio.Future[None]"

    async def get(self) -> None:
        self.waiting = asyncio.get_running_loop().create_future()
        held.add(self.waiting)
        try:
            await self.waiting
        finally:
            held.discard(self.waiting)
        await super().get()

    def on_connection_close(self) -> None:
        self.waiting.cancel()


class Broadcast(Bare):
    """Answers all that are held."""

    async def post(self) -> None:
        for waiting in held:
            waiting.set_result(None)


class HowMany(Bare):
    """How many are held."""

    async def get(self) -> None:
        self.write(str(len(held)))


async def main() -> None:
    routes = [("/", Bare), ("/hold", Hold), ("/broadcast", Broadcast), ("/held", HowMany)]
    server = HTTPServer(Application(routes, log_function=lambda _: None))
    server.add_sockets(bind_sockets(int(sys.argv[1]), "127.0.0.1", backlog=4096))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
