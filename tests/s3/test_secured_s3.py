"""An S3 with TLS and a certificate of its own authority's: a worker uploads, the server signs, a client fetches."""

import asyncio
import io
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import trustme
from botocore.exceptions import SSLError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.client import AsyncGenerationClient, DownloadFailed
from genstatus_server.demo.embedded.process import free_port
from genstatus_server.demo.embedded.s3 import _environment, bucket_folder, find_rclone
from genstatus_server.jobs_writer import JobsWriter, s3_client
from genstatus_server.mongo.schema import initialize
from tests.support.processes import DEADLINE, credentials, wait_until
from tests.support.server import settings_for, start
from tests.support.services import ACCESS_KEY, REGION, S3, SECRET_KEY
from tests.support.world import SUBMISSION, World

if TYPE_CHECKING:
    import pymongo

pytestmark = pytest.mark.one_python

CONTENT = b"file_type,award_id\r\nE,1\r\n"


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """The authority; what it has signed lies beside it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "s3.pem"))
    return tmp_path / "ca.pem"


@pytest.fixture
def secured(ca_file: Path) -> Iterator[S3]:
    """`rclone serve s3` with that certificate."""
    folder, port = ca_file.parent / "s3", free_port()
    bucket_folder(folder, "reports").mkdir(parents=True)
    certificate = str(ca_file.with_name("s3.pem"))
    options = ["--addr", f"127.0.0.1:{port}", "--cert", certificate, "--key", certificate]
    command = [str(find_rclone()), "serve", "s3", *options, str(bucket_folder(folder, "reports").parent)]
    with subprocess.Popen(command, env=_environment(folder, ACCESS_KEY, SECRET_KEY)) as process:
        try:
            wait_until(lambda: _listens(port), "the S3 listens")
            yield S3(f"https://127.0.0.1:{port}", ACCESS_KEY, SECRET_KEY, REGION, "reports")
        finally:
            process.terminate()
            process.wait(DEADLINE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def upload(database: "pymongo.database.Database[dict[str, Any]]", s3: S3) -> None:
    """What a worker does."""
    with closing(s3_client(s3.region, s3.endpoint_url, retries={"total_max_attempts": 1})) as client:
        writer = JobsWriter(database, bucket=s3.bucket, s3=client)
        with writer.request(SUBMISSION, "E") as job:
            job.upload(io.BytesIO(CONTENT))


async def test_s3_over_tls_serves_clients_that_trust_its_authority(
    world: World,
    mongodb_uri: str,
    sync_mongodb: "pymongo.MongoClient[dict[str, Any]]",
    http_client: SimpleAsyncHTTPClient,
    secured: S3,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # It keeps the credentials of whichever test was first.
    for name, value in credentials(secured).items():
        monkeypatch.setenv(name, value)
    await asyncio.to_thread(lambda: list(initialize(mongodb_uri, world.name)))
    database = sync_mongodb[world.name]
    with pytest.raises(SSLError):
        await asyncio.to_thread(upload, database, secured)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
    await asyncio.to_thread(upload, database, secured)
    async with AsyncExitStack() as stack:
        server = await start(stack, settings_for(mongodb_uri, world.name, secured), secured, http_client)
        path = ca_file.with_name("E.csv")
        context = ssl.create_default_context(cafile=ca_file)
        client = await stack.enter_async_context(AsyncGenerationClient(server.base_url, "owner", verify=context))
        await client.download(SUBMISSION, "E", path)
        assert path.read_bytes() == CONTENT
        stranger = await stack.enter_async_context(AsyncGenerationClient(server.base_url, "owner"))
        stranger.timing = type(stranger.timing)(stranger.timing.clock, lambda: 0.0)  # No pause between its tries.
        with pytest.raises(DownloadFailed, match=r"(?i)certificate.verify.failed|ConnectError"):
            await stranger.download(SUBMISSION, "E", path.with_name("F.csv"))
