"""The mongod of a run, and the documents that are asked for: users of one agency, its submissions, and their jobs."""

import asyncio
import hashlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient, WriteConcern

from benchmarks.clients.writer import finished
from benchmarks.programs import BenchmarkFailed
from genstatus_server.demo.embedded import running_mongod
from genstatus_server.mongo.schema import initialize

NAME: Final = "benchmark"
#: Held requests of one login session; the server admits 64.
HOLDS_PER_SESSION: Final = 40
_SESSIONS: Final = 2500
_AGENCY: Final = "097"


class Database:
    """One database on the run's mongod. A job's id is its submission's too; its file type is D1."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client: MongoClient[dict[str, Any]] = MongoClient(uri)
        self._database = self.client.get_database(NAME, write_concern=WriteConcern("majority"))
        self._ids = itertools.count(1)
        list(initialize(uri, NAME))
        self._add_users()

    def add_jobs(self, count: int) -> list[int]:
        """New jobs in `waiting`, each of a new submission."""
        ids = list(itertools.islice(self._ids, count))
        now = datetime.now(UTC)
        submissions = [{"_id": each, "user_id": 1, "cgac_code": _AGENCY, "frec_code": None} for each in ids]
        jobs = [
            {"_id": each, "submission_id": each, "file_type": "D1", "status": "waiting", "updated_at": now}
            for each in ids
        ]
        self._database["submissions"].insert_many(submissions)
        self._database["jobs"].insert_many(jobs)
        return ids

    def finish(self, job_id: int) -> None:
        self._database["jobs"].update_one({"_id": job_id}, {"$set": finished(job_id)})

    def operations(self) -> int:
        """Operations of clients that MongoDB has counted since its start; this question adds one.

        Without `hello`, with which every driver, the measurement's too, asks now and then whether MongoDB is there.
        """
        status = self._status()
        counters = status["opcounters"]
        counted = sum(counters[kind] for kind in ("insert", "query", "update", "delete", "getmore", "command"))
        return int(counted - status["metrics"]["commands"]["hello"]["total"])

    def finds(self) -> int:
        """Those of them that were queries."""
        return int(self._status()["opcounters"]["query"])

    @property
    def pid(self) -> int:
        """The mongod's process."""
        return int(self._status()["pid"])

    @property
    def version(self) -> str:
        return str(self.client.server_info()["version"])

    def _status(self) -> dict[str, Any]:
        return self.client.admin.command("serverStatus")

    def _add_users(self) -> None:
        expires_at = datetime.now(UTC) + timedelta(days=1)
        affiliations = [{"cgac_code": _AGENCY, "permission": "reader"}]
        numbers = range(1000, 1000 + _SESSIONS)
        self._database["users"].insert_many(
            [{"_id": n, "email": f"user{n}@example.gov", "affiliations": affiliations} for n in numbers]
        )
        self._database["sessions"].insert_many(
            [
                {"_id": hashlib.sha256(token(n).encode()).hexdigest(), "user_id": n, "expires_at": expires_at}
                for n in numbers
            ]
        )


def token(number: int) -> str:
    return f"benchmark-session-{number}"


def path(job_id: int) -> str:
    """What a plain poll asks for."""
    return f"/v1/check_generation_status/?submission_id={job_id}&file_type=D1"


def hold_path(job_id: int) -> str:
    """What a hold asks for: the longest that the server admits by default."""
    return f"{path(job_id)}&wait=true&timeout=55"


def hold_requests(job_ids: Sequence[int]) -> list[tuple[str, str]]:
    """A path and a token for each hold, with so few for each session as the server admits."""
    return [(hold_path(job_id), token(1000 + n // HOLDS_PER_SESSION)) for n, job_id in enumerate(job_ids)]


def at_route(place: str, path: str) -> str:
    """The query of `path` at another place: the framework takes one apart before it calls any handler."""
    return f"{place}?{path.partition('?')[2]}"


@contextmanager
def running_database(folder: Path) -> Iterator[Database]:
    """The embedded mongod, with its data in `folder`, while the block lasts. It runs on the core that we are on."""
    started: Future[str] = Future()
    stop = threading.Event()

    async def hold() -> None:
        async with running_mongod(folder) as uri:
            started.set_result(uri)
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as error:  # noqa: BLE001 - the other thread raises it
            if not started.done():
                started.set_exception(BenchmarkFailed(f"mongod cannot be started: {error}"))

    thread = threading.Thread(target=run, name="mongod")
    thread.start()
    try:
        database = Database(started.result())
        with database.client:
            yield database
    finally:
        stop.set()
        thread.join()
