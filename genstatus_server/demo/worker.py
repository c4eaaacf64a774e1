"""A sample worker: keeps generating one file, about every five seconds, and really uploads it.

    python -m genstatus_server.demo.worker

Configured by the environment alone, by the server's own names: GENSTATUS_MONGODB_URI, GENSTATUS_MONGODB_DATABASE,
GENSTATUS_S3_BUCKET, GENSTATUS_S3_REGION, GENSTATUS_S3_ENDPOINT_URL, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
Ends on SIGTERM, on Ctrl-C, and when its stdin ends, as it does when the process that holds the other end dies.

It asks for the file (submission 1, D1) itself, and then does what a real worker does: `waiting` and `running` with no
upload; then the generation is `finished` while the upload runs; then both are. A hold on it ends after 3.5 s at most,
and one plain poll in three finds it finished. A majority acknowledges each write, so holds see it in milliseconds.
"""

import os
import select
import signal
import sys
from collections.abc import Generator
from contextlib import closing
from io import BytesIO
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from genstatus_server.demo.samples import DEMO_FILE_TYPE, DEMO_SUBMISSION_ID, END, START, sample_csv
from genstatus_server.jobs_writer import JobsWriter, LeaseLost, s3_client

#: Overwritten each time, whole or not at all, so that a URL of the generation before still finds a file.
_KEY: Final = f"{DEMO_SUBMISSION_ID}/{DEMO_FILE_TYPE}.csv"

#: Seconds in each state. Together, 5.
_WAITING, _RUNNING, _FINISHED = 1.0, 2.5, 1.5
_PAUSE_AFTER_ERROR: Final = 1.0
#: Milliseconds that a MongoDB operation may take. The worker notices a signal only after the operation.
_MONGODB_TIMEOUT_MS: Final = 1000
#: Seconds; the S3 is on the same machine.
_S3_TIMEOUT: Final = 2

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def generations(writer: JobsWriter) -> Generator[float]:
    """Generate the file once; yields the seconds to let pass before the next step."""
    job = writer.request(DEMO_SUBMISSION_ID, DEMO_FILE_TYPE, START, END)
    yield _WAITING
    with job:
        yield _RUNNING
        body = sample_csv(DEMO_FILE_TYPE)
        job.finish(len(body))
        job.upload(BytesIO(body), key=_KEY)
    yield _FINISHED


class Stop:
    """Tells when to end: at a signal, or when stdin ends."""

    def __init__(self) -> None:
        self._signals, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: None)

    def within(self, seconds: float) -> bool:
        """Let `seconds` pass; true, at once, where it is time to end."""
        ready = select.select([0, self._signals], [], [], seconds)[0]
        return self._signals in ready or (0 in ready and os.read(0, 4096) == b"")


def work(writer: JobsWriter, stop: Stop) -> None:
    """Generate until `stop`. A MongoDB or S3 that is away for a while only delays the next step."""
    while True:
        try:
            with closing(generations(writer)) as steps:
                for seconds in steps:
                    if stop.within(seconds):
                        return
        except (PyMongoError, BotoCoreError, ClientError, LeaseLost) as error:
            # Its name only: the text may hold an address, or a key.
            sys.stderr.write(f"demo worker: {type(error).__name__}; trying again\n")
            if stop.within(_PAUSE_AFTER_ERROR):
                return


def main() -> None:
    """Work until a signal."""
    stop = Stop()
    environment = {name.removeprefix("GENSTATUS_").lower(): value for name, value in os.environ.items()}
    uri, name = environment["mongodb_uri"], environment.get("mongodb_database", "genstatus")
    s3 = s3_client(
        environment.get("s3_region"),
        environment.get("s3_endpoint_url"),
        connect_timeout=_S3_TIMEOUT,
        read_timeout=_S3_TIMEOUT,
        retries={"total_max_attempts": 2},
        proxies={},  # It is on the same machine, whatever HTTP_PROXY says.
    )
    with closing(s3), MongoClient[dict[str, Any]](uri, timeoutMS=_MONGODB_TIMEOUT_MS) as client:
        work(JobsWriter(client[name], bucket=environment["s3_bucket"], s3=s3), stop)


if __name__ == "__main__":
    main()
