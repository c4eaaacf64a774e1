"""A peer: the straightforward Tornado + Motor handler.

    tornado_motor.py PORT MONGODB_URI DATABASE

Four finds and a presigned URL for each request; one that waits reads its job again every second. `/find` only finds the
job.
"""

import asyncio
import sys
import time
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from benchmarks.servers.peer import PATH, answer, find_job, is_waiting, may_view, open_s3

RE_READ_SECONDS = 1.0


class StatusHandler(RequestHandler):
    """The route of both."""

    is_client_gone = False

    def initialize(self, database: Any, s3: Any) -> None:
        self.database = database
        self.s3 = s3

    async def get(self) -> None:
        submission_id, file_type = int(self.get_query_argument("submission_id")), self.get_query_argument("file_type")
        if not await may_view(self.database, self.request.headers["X-Session-ID"], submission_id):
            raise HTTPError(403)
        deadline = time.monotonic() + float(self.get_query_argument("timeout", "25"))
        job = await find_job(self.database, submission_id, file_type)
        if self.get_query_argument("wait", "false") == "true":
            while is_waiting(job) and time.monotonic() < deadline and not self.is_client_gone:
                await asyncio.sleep(RE_READ_SECONDS)
                job = await find_job(self.database, submission_id, file_type)
        self.write(await answer(self.s3, job))

    def on_connection_close(self) -> None:
        self.is_client_gone = True


class FindHandler(RequestHandler):
    """One find and its answer: the least that a request with a read takes."""

    def initialize(self, database: Any) -> None:
        self.database = database

    async def get(self) -> None:
        job = await find_job(self.database, int(self.get_query_argument("submission_id")), "D1")
        self.write({"job_id": job["_id"]})


async def main() -> None:
    port, uri, name = sys.argv[1:]
    database = AsyncIOMotorClient[dict[str, Any]](uri)[name]
    async with open_s3() as s3:
        routes = [
            (PATH, StatusHandler, {"database": database, "s3": s3}),
            ("/find", FindHandler, {"database": database}),
        ]
        server = HTTPServer(Application(routes))
        server.add_sockets(bind_sockets(int(port), "127.0.0.1", backlog=4096))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
