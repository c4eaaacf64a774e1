"""What the workers of the soak generate: a file whose bytes are known from the job, and a line for each run of it."""

import json
import os
import random
import time
from io import BytesIO
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from genstatus_server.jobs_writer import JobHandle, LeaseLost

#: One file in fifty goes up in parts.
_SMALL, _LARGE = 50_000, 9_000_000


def content_of(submission_id: int) -> bytes:
    chance = random.Random(submission_id)
    return chance.randbytes(_LARGE if chance.random() < 1 / 50 else _SMALL)


def generate(job: JobHandle) -> None:
    note(job, "began")
    time.sleep(random.uniform(0, 1))
    try:
        job.upload(BytesIO(content_of(job.submission_id)))
        job.finish()
    except LeaseLost:
        note(job, "lost")
        raise
    except (BotoCoreError, ClientError):
        note(job, "gave back")
        job.release()
    else:
        note(job, "finished")


def note(job: JobHandle, what: str) -> None:
    line = json.dumps({"job": job.job_id, "attempt": job.attempt, "what": what, "process": os.getpid()})
    with Path(os.environ["SOAK_NOTES"]).open("a") as notes:  # One short write to the end of a file is not torn.
        notes.write(f"{line}\n")
