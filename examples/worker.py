"""A complete worker: for each job it makes a CSV file of 100,000 rows, uploads it and finishes the job.

Set GENSTATUS_MONGODB_URI and GENSTATUS_S3_BUCKET, and run as many as you like.
"""

import csv
import logging
import os
import signal
import sys
from tempfile import NamedTemporaryFile
from typing import Any

from pymongo import MongoClient

from genstatus_server.jobs_writer import JobHandle, JobsWriter


def generate(job: JobHandle) -> None:
    with NamedTemporaryFile("w", newline="", suffix=".csv") as file:
        rows = csv.writer(file)
        rows.writerow(["submission_id", "file_type", "award_id", "obligated_amount"])
        for number in range(1, 100_001):
            rows.writerow([job.submission_id, job.file_type, f"{number:06}", f"{number * 12.5:.2f}"])
        file.flush()
        job.upload(file.name, progress=lambda sent: logging.info("%r: %s bytes sent", job, sent))
    job.finish()


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # The job in hand goes back to the queue.
    with MongoClient[dict[str, Any]](os.environ["GENSTATUS_MONGODB_URI"]) as client:
        database = client[os.environ.get("GENSTATUS_MONGODB_DATABASE", "genstatus")]
        JobsWriter(database, bucket=os.environ["GENSTATUS_S3_BUCKET"]).work(generate)


if __name__ == "__main__":
    main()
