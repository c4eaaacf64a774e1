"""Programs that upload, each run as a process of its own: python upload_programs.py NAME ENDPOINT BUCKET …."""

import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from pymongo import MongoClient

from genstatus_server.jobs_writer import JobsWriter, s3_client
from genstatus_server.jobs_writer.changes import File
from genstatus_server.jobs_writer.transfer import upload

CHILDREN, UPLOADS = 4, 12


def piped(endpoint: str, bucket: str, count: str) -> None:
    """Upload what an unbuffered pipe gives, `count` bytes; writes by how many KiB the memory's peak grew."""
    client = s3_client(endpoint_url=endpoint)
    upload(client, io.BytesIO(b"warm"), File(bucket, "warm"), {}, check=_never)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with subprocess.Popen(["head", "-c", count, "/dev/zero"], stdout=subprocess.PIPE, bufsize=0) as process:  # noqa: S607
        source: Any = process.stdout
        sent = upload(client, source, File(bucket, "piped"), {}, check=_never)
    assert sent == int(count)
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def forked(endpoint: str, bucket: str) -> None:
    """Upload in children with the client that their parent has used, and goes on using."""
    client = s3_client(endpoint_url=endpoint)
    upload(client, io.BytesIO(b"warm"), File(bucket, "warm"), {}, check=_never)
    children = []
    for child in range(CHILDREN):
        pid = os.fork()
        if not pid:
            _upload_some(client, bucket, child)
            os._exit(0)
        children.append(pid)
    _upload_some(client, bucket, CHILDREN)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * CHILDREN


def terminated(endpoint: str, bucket: str, uri: str, name: str) -> None:
    """A worker that ends by SIGTERM, as docs/workers.md says."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with MongoClient[dict[str, Any]](uri) as mongodb:
        writer = JobsWriter(mongodb[name], bucket=bucket, s3=s3_client(endpoint_url=endpoint))
        writer.work(lambda job: job.upload(io.BytesIO(bytes(20_000_000))))


def _upload_some(client: Any, bucket: str, child: int) -> None:
    for number in range(UPLOADS):
        name = f"{child}-{number}"
        upload(client, io.BytesIO(name.encode() * 10_000), File(bucket, name), {}, check=_never)


def _never() -> None:
    """Nothing ends these uploads."""


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"piped": piped, "forked": forked, "terminated": terminated}
    programs[sys.argv[1]](*sys.argv[2:])
