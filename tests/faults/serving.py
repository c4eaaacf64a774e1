"""The server under test as a process of its own, and what it says of itself."""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.holds import counted, holding, poll
from tests.support.processes import ServerProcess, credentials, flags_for, running_server, wait_until
from tests.support.scene import TOKEN
from tests.support.services import S3

#: Room for everything that a test holds, and longer than it takes.
OPTIONS = {"wait-max": "600", "max-waits-per-session": "20000", "max-waits": "10000"}


class Served:
    """A running server. Times are the wall clock's, in seconds."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.url = server.url
        self.pid = server.process.pid

    def get(self, path: str, token: str | None = None, seconds: float = 60) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (in lower case) and body of the answer."""
        with closing(http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=seconds)) as connection:
            connection.request("GET", path, headers={"X-Session-ID": token} if token else {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def check(self, submission_id: int, token: str = TOKEN) -> tuple[int, dict[str, str], dict[str, Any]]:
        """A plain poll."""
        status, headers, body = self.get(poll(submission_id), token)
        return status, headers, json.loads(body)

    def metrics(self) -> dict[str, float]:
        lines = self.get("/metrics")[2].decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def held(self) -> int:
        return int(self.metrics()["genstatus_held_requests"])

    def wait_held(self, count: int) -> None:
        wait_until(lambda: self.held() == count, f"{count} held")

    def wait_quiet(self) -> None:
        """Wait until nothing is read while several questions are answered: every hold has looked."""
        jobs = 'genstatus_mongodb_reads_total{collection="jobs"}'

        def is_quiet() -> bool:
            reads = [self.metrics()[jobs] for _ in range(10)]
            return reads[0] == reads[-1]

        wait_until(is_quiet, "nothing is read")

    def wait_looked(self, numbers: Sequence[int]) -> None:
        """Wait until the jobs with these numbers are waited for, by one hold each that has looked."""
        self.wait_held(len(numbers))
        # A poll that comes while a hold reads the same job gets what that read brings.
        with holding(self.url, [poll(number) for number in numbers], TOKEN) as polls:
            assert counted(polls.results_once_sent(), "status", "generation") == {(200, "waiting"): len(numbers)}

    def readyz(self) -> tuple[int, dict[str, Any]]:
        status, _, body = self.get("/readyz")
        return status, json.loads(body)

    def wait_ready(self) -> None:
        wait_until(lambda: self.readyz()[0] == 200, "ready")

    def times_of_reopening(self) -> list[float]:
        """When the change stream went on, opened anew by us or resumed by the driver."""
        return self.times_of("change_stream_open") + self.times_of("change_stream_late")

    def times_of(self, action: str) -> list[float]:
        """When the log says that this happened."""
        return [datetime.fromisoformat(record["timestamp"]).timestamp() for record in self.server.records(action)]


@contextmanager
def serving(
    folder: Path,
    s3: S3,
    uri: str,
    database_name: str,
    *,
    environment: Mapping[str, str] | None = None,
    **options: str,
) -> Iterator[Served]:
    """The server on this database; options by their names, with underscores."""
    flags = OPTIONS | {name.replace("_", "-"): value for name, value in options.items()}
    all_of_it = credentials(s3) | dict(environment or {})
    with running_server(folder, flags_for(uri, database_name, s3, **flags), all_of_it) as server:
        yield Served(server)
