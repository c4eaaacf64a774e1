"""Uploads: what streams may do, what S3 demands, and how they end, on a real S3."""

import asyncio
import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genstatus_server.demo.embedded.s3 import running_s3
from genstatus_server.jobs_writer import AsyncJobsWriter, JobsWriter, LeaseLost
from genstatus_server.jobs_writer import s3_client as own_client
from genstatus_server.jobs_writer.aio import in_thread
from genstatus_server.jobs_writer.outage import NotFromS3
from genstatus_server.jobs_writer.s3 import PART_SIZE, checked_place, part_sizes
from genstatus_server.jobs_writer.transfer import STOP_SECONDS, upload
from tests.support import upload_programs
from tests.support.portal import running_portal
from tests.support.processes import DEADLINE, wait_until
from tests.support.server import until
from tests.support.services import ACCESS_KEY, REGION, S3, SECRET_KEY, in_background

if TYPE_CHECKING:
    from pymongo.database import Database

pytestmark = pytest.mark.one_python  # Its waits are those of MongoDB, S3 and AWS.

ARN = "arn:aws:s3:us-east-1:123456789012:accesspoint/reports"
GIB = 2**30


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment, where the AWS chain finds them."""
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)


def credentials() -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}


@pytest.fixture
def send(s3: S3, s3_client: Any) -> Callable[..., bytes]:
    """Uploads a source, and gives what S3 has of it then."""

    def sent(source: Any, **args: Any) -> bytes:
        size = upload(s3_client, source, checked_place(s3.bucket, "a/file.csv"), args, check=lambda: None)
        content: bytes = s3_client.get_object(Bucket=s3.bucket, Key="a/file.csv")["Body"].read()
        assert len(content) == size
        return content

    return sent


class Adaptor:
    """The usual one over a generator: `read` gives what there is, whatever is asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _size: int = -1) -> bytes:
        return next(self._pieces, b"")


@pytest.mark.parametrize(
    "pieces",
    [
        [f"line {number:05}\n".encode() for number in range(80_000)],
        [bytes([number]) * (5 * 2**20 + 1) for number in range(5)],
        [b"a" * 1000, bytes(3 * PART_SIZE), b"b"],
        [bytes(PART_SIZE)],
        [bytes(PART_SIZE), bytes(PART_SIZE)],
        [],
    ],
    ids=["lines", "odd pieces", "one large piece", "one full part", "two full parts", "nothing"],
)
def test_upload_sends_all_bytes_whatever_reads_return(send: Callable[..., bytes], pieces: list[bytes]) -> None:
    assert send(Adaptor(iter(pieces))) == b"".join(pieces)


def test_parts_have_sizes_that_s3_takes() -> None:
    for size in (None, 1, 80 * GIB, 5 * 1024 * GIB):
        sizes = list(part_sizes(size))
        assert len(sizes) == 10_000
        assert sum(sizes) >= (size or 5 * 1024 * GIB)
        assert 5 * 2**20 <= min(sizes) <= max(sizes) <= 5 * GIB
        assert len(set(sizes[:5000])) == 1
    assert len(set(part_sizes(80 * GIB))) == 1


def test_short_reads_make_full_parts(s3: S3, s3_client: Any, recorded: list[Mapping[str, Any]]) -> None:
    first = [bytes(PART_SIZE)]
    pieces = itertools.chain(first, itertools.repeat(bytes(65_536), 200))
    upload(s3_client, Adaptor(pieces), checked_place(s3.bucket, "plain.csv"), {}, check=lambda: None)  # type: ignore[arg-type]
    lengths = [len(one["Body"].getvalue()) for one in recorded if "PartNumber" in one]
    assert sorted(lengths, reverse=True) == [PART_SIZE, PART_SIZE, 200 * 65_536 - PART_SIZE]


@pytest.fixture
def recorded(s3_client: Any) -> Iterator[list[Mapping[str, Any]]]:
    """The parameters of each request of the S3 client."""
    requests: list[Mapping[str, Any]] = []

    def record(params: Mapping[str, Any], **_: Any) -> None:
        requests.append(dict(params))

    s3_client.meta.events.register("provide-client-params.s3", record)
    yield requests
    s3_client.meta.events.unregister("provide-client-params.s3", record)


def test_upload_of_an_unbuffered_pipe_takes_bounded_memory(s3: S3) -> None:
    grown = int(run_program("piped", s3.endpoint_url, s3.bucket, str(150_000_000)))
    assert grown < 100_000


def run_program(*arguments: str) -> str:
    command = [sys.executable, upload_programs.__file__, *arguments]
    done = subprocess.run(
        command, env=os.environ | credentials(), stdout=subprocess.PIPE, timeout=4 * DEADLINE, check=True
    )
    return done.stdout.decode()


def test_upload_works_in_forked_children_with_their_parents_client(s3: S3, s3_client: Any) -> None:
    run_program("forked", s3.endpoint_url, s3.bucket)
    names = [
        f"{child}-{number}"
        for child in range(upload_programs.CHILDREN + 1)
        for number in range(upload_programs.UPLOADS)
    ]
    for name in names:
        content = s3_client.get_object(Bucket=s3.bucket, Key=name)["Body"].read()
        assert content == name.encode() * 10_000


def test_upload_tells_a_stream_at_its_end_from_an_empty_one(send: Callable[..., bytes], tmp_path: Path) -> None:
    stream = io.BytesIO()
    stream.write(b"forgotten")
    with pytest.raises(ValueError, match="seek"):
        send(stream)
    stream.seek(6)
    assert send(stream) == b"ten"
    assert send(io.BytesIO()) == b""
    (tmp_path / "empty.csv").touch()
    assert send(tmp_path / "empty.csv") == b""


@pytest.mark.parametrize(
    ("given", "error"), [("text", TypeError), (None, BlockingIOError)], ids=["text", "nothing yet"]
)
def test_upload_refuses_a_stream_that_gives_no_bytes(send: Callable[..., bytes], given: object, error: type) -> None:
    stream: Any = Adaptor(iter([b"a", given]))  # type: ignore[list-item]
    with pytest.raises(error):
        send(stream)


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("reports", ""),
        ("reports", "a/../b"),
        ("reports", "./a"),
        ("reports", ".."),
        ("reports", "a/\udce9.csv"),
        ("reports", "a\0b"),
        ("reports", "é" * 513),
        ("re ports", "a"),
        ("a/b", "a"),
        ("arn:aws:sqs:us-east-1:123456789012:queue", "a"),
    ],
)
def test_finish_refuses_an_invalid_bucket_or_key(
    initialized: "Database[dict[str, Any]]", bucket: str, key: str
) -> None:
    with pytest.raises(ValueError, match=r"bucket|key|surrogates"):
        JobsWriter(initialized, bucket=bucket).request(1, "E").finish(key=key)


@pytest.mark.parametrize(
    "bucket",
    [
        "b--use1-az4--x-s3",
        "b--use1-az4--xa-s3",
        "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap",
        "arn:aws:s3:::mybucket",
        "arn:aws:s3:us-east-1:123456789012:bucket/x",
    ],
)
def test_bucket_that_the_server_cannot_sign_for_is_refused(
    initialized: "Database[dict[str, Any]]", s3_client: Any, bucket: str
) -> None:
    """The trap: the file was stored, and callers got `failed`."""
    for writer in (JobsWriter, AsyncJobsWriter):
        with pytest.raises(ValueError, match="bucket must be"):
            writer(initialized, bucket=bucket)
    with pytest.raises(ValueError, match="bucket must be"):
        checked_place(bucket, "a")
    job = JobsWriter(initialized, bucket="reports", s3=s3_client).request(1, "E")
    job.start()
    for use in (lambda: job.upload(io.BytesIO(b"a"), bucket=bucket), lambda: job.finish(bucket=bucket, key="a")):
        with pytest.raises(ValueError, match="bucket must be"):
            use()
    job.release()


class Away(Exception):
    """There is no AWS here."""


def test_upload_accepts_an_access_point_on_aws_only(s3_client: Any, keys: None) -> None:
    file, hosts = checked_place(ARN, "..a/b.csv"), []
    with pytest.raises(ValueError, match="access point"):
        upload(s3_client, io.BytesIO(b"a"), file, {}, check=lambda: None)
    with closing(own_client("us-east-1")) as client:

        def record(request: Any, **_: Any) -> None:
            hosts.append(request.url)
            raise Away

        client.meta.events.register("before-send.s3.PutObject", record)
        with pytest.raises(Away):
            upload(client, io.BytesIO(b"a"), file, {}, check=lambda: None)
    assert hosts == ["https://reports-123456789012.s3-accesspoint.us-east-1.amazonaws.com/..a/b.csv"]


def test_extra_args_go_to_the_requests_that_take_them(
    send: Callable[..., bytes], recorded: list[Mapping[str, Any]]
) -> None:
    args = {"Tagging": "kind=report", "ExpectedBucketOwner": "123456789012", "ChecksumAlgorithm": "CRC32"}
    send(io.BytesIO(b"small"), **args)
    send(io.BytesIO(bytes(PART_SIZE + 1)), **args)
    sent = [sorted(one.keys() & args.keys()) for one in recorded if "ResponseContentType" not in one]
    put, _, create, part, again, complete, _ = sent
    assert put == create == sorted(args)
    assert part == again == ["ChecksumAlgorithm", "ExpectedBucketOwner"]
    assert complete == ["ExpectedBucketOwner"]


def test_upload_sends_a_whole_file_checksum_outside_its_parts(
    send: Callable[..., bytes], recorded: list[Mapping[str, Any]]
) -> None:
    send(io.BytesIO(bytes(PART_SIZE + 1)), ChecksumCRC32="hsp0wA==")
    create, *parts, complete, _ = recorded
    assert (create["ChecksumType"], create["ChecksumAlgorithm"]) == ("FULL_OBJECT", "CRC32")
    assert not any("ChecksumCRC32" in part for part in parts)
    assert complete["ChecksumCRC32"] == "hsp0wA=="


@pytest.mark.parametrize("name", ["Body", "UploadId", "ServerSideEncription"])
def test_extra_args_that_s3_does_not_take_are_refused(send: Callable[..., bytes], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        send(io.BytesIO(b"a"), **{name: "a"})


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_s3_client_respects_an_endpoint_of_the_aws_configuration(
    s3: S3, keys: None, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, s3.endpoint_url)
    headers: list[str] = []

    def record(request: Any, **_: Any) -> None:
        headers.extend(name.lower() for name in request.headers)

    with closing(own_client()) as client:
        client.meta.events.register("before-send.s3", record)
        upload(client, io.BytesIO(bytes(PART_SIZE + 1)), checked_place(s3.bucket, "plain.csv"), {}, check=lambda: None)
    assert headers
    assert not [name for name in headers if "checksum" in name or "trailer" in name]
    with closing(own_client(s3={"addressing_style": "virtual"})) as client:
        assert client.meta.config.s3 == {"addressing_style": "virtual"}
    monkeypatch.delenv(variable)
    with closing(own_client()) as client:
        assert client.meta.config.request_checksum_calculation == "when_supported"


@pytest.fixture
def configured(tmp_path: Path, keys: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the AWS configuration, of a custom endpoint."""

    def configure(lines: str) -> None:
        (tmp_path / "config").write_text(f"[profile reports]\nendpoint_url = https://storage.example.org\n{lines}")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "reports")

    return configure


@pytest.mark.parametrize(
    ("lines", "options", "host"),
    [
        ("", {}, "storage.example.org/reports/"),
        ("s3 =\n  addressing_style = virtual", {}, "reports.storage.example.org/"),
        ("s3 =\n  addressing_style = path", {}, "storage.example.org/reports/"),
        ("s3 =\n  addressing_style = auto", {}, "storage.example.org/reports/"),
        ("s3 =\n  payload_signing_enabled = true", {}, "storage.example.org/reports/"),
        ("", {"s3": {"payload_signing_enabled": True}}, "storage.example.org/reports/"),
        ("s3 =\n  addressing_style = path", {"s3": {"addressing_style": "virtual"}}, "reports.storage.example.org/"),
    ],
)
def test_s3_client_addresses_buckets_as_configured(
    configured: Callable[[str], None], lines: str, options: dict[str, Any], host: str
) -> None:
    configured(lines)
    with closing(own_client(**options)) as client:
        url = client.generate_presigned_url("get_object", Params={"Bucket": "reports", "Key": "a"})
        assert url.startswith(f"https://{host}a?")
        assert "AWS4-HMAC-SHA256" in url
        if "payload" in f"{lines}{options}":
            assert client.meta.config.s3["payload_signing_enabled"]


@pytest.mark.parametrize(
    ("lines", "variable", "options", "expected"),
    [
        ("", None, {}, "when_required"),
        ("request_checksum_calculation = when_supported", None, {}, "when_supported"),
        ("", "when_supported", {}, "when_supported"),
        ("", "WHEN_SUPPORTED", {}, "when_supported"),
        ("request_checksum_calculation = when_supported", "when_required", {}, "when_required"),
        ("", "when_required", {"request_checksum_calculation": "when_supported"}, "when_supported"),
    ],
)
def test_s3_client_sends_checksums_as_configured(
    configured: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    lines: str,
    variable: str | None,
    options: dict[str, Any],
    expected: str,
) -> None:
    configured(lines)
    if variable:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", variable)
    for endpoint_url in (None, "https://other.example.org"):
        with closing(own_client(endpoint_url=endpoint_url, **options)) as client:
            assert client.meta.config.request_checksum_calculation == expected


def test_upload_removes_its_parts_when_its_lease_is_lost(
    s3: S3, s3_client: Any, initialized: "Database[dict[str, Any]]"
) -> None:
    writer = JobsWriter(initialized, bucket=s3.bucket, s3=s3_client, lease_seconds=0.3)
    writer.request(1, "E")
    job = writer.claim()
    assert job is not None

    def request_again(_sent: int) -> None:
        if s3_client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads"):
            writer.request(1, "E")

    def is_clear() -> bool:  # On a slow machine, the removal goes on in the background for a while.
        return not s3_client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads")

    with pytest.raises(LeaseLost), job:
        job.upload(Adaptor(itertools.repeat(bytes(PART_SIZE))), progress=request_again)  # type: ignore[arg-type]
    wait_until(is_clear, "its parts are removed")


def test_upload_counts_only_with_the_answer_of_s3(keys: None) -> None:
    """The trap: the job was finished, and its file nowhere."""
    with running_portal(200) as url, closing(own_client(endpoint_url=url)) as client, pytest.raises(NotFromS3):
        upload(client, io.BytesIO(b"a"), checked_place("reports", "a"), {}, check=lambda: None)


@pytest.fixture
def hanging_s3() -> Iterator[socket.socket]:
    """Takes connections and requests, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        yield server


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_worker_ends_by_sigterm_while_s3_hangs(
    hanging_s3: socket.socket, mongodb_uri: str, initialized: "Database[dict[str, Any]]"
) -> None:
    JobsWriter(initialized).request(1, "E")
    command = [sys.executable, upload_programs.__file__, "terminated", url_of(hanging_s3), "reports"]
    with subprocess.Popen([*command, mongodb_uri, initialized.name], env=os.environ | credentials()) as process:
        try:
            with hanging_s3.accept()[0] as connection:
                assert connection.recv(1)
                process.send_signal(signal.SIGTERM)
                process.wait(DEADLINE)
        finally:
            process.kill()
    found = initialized["jobs"].find_one()
    assert found is not None
    assert (found["status"], found.get("upload")) == ("waiting", None)


async def test_upload_ends_at_once_by_a_second_cancellation(hanging_s3: socket.socket, keys: None) -> None:
    before = set(threading.enumerate())
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))

    def threads() -> set[threading.Thread]:
        return set(threading.enumerate()) - before

    with closing(own_client(endpoint_url=url_of(hanging_s3), read_timeout=STOP_SECONDS + 2)) as client:
        file = checked_place("reports", "a")
        stopped = threading.Event()

        def check() -> None:
            if stopped.is_set():
                raise InterruptedError

        uploading = in_thread(lambda: upload(client, io.BytesIO(b"a"), file, {}, check=check), stopped)
        task = asyncio.create_task(uploading)
        await until(threads)
        for _ in range(2):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert threads()
        await until(lambda: not threads())
    assert not unseen


def test_upload_removes_its_parts_when_s3_answers_again(tmp_path: Path, keys: None) -> None:
    with in_background(running_s3(tmp_path, access_key=ACCESS_KEY, secret_key=SECRET_KEY)) as url:
        client = own_client(endpoint_url=url, read_timeout=2 * STOP_SECONDS)
        client.create_bucket(Bucket="reports")
        pids = subprocess.check_output(["pgrep", "-f", f"rclone.*{url.rpartition(':')[2]}"])  # noqa: S607
        frozen = threading.Event()

        def to_all(number: signal.Signals) -> None:
            for pid in pids.split():
                os.kill(int(pid), number)

        def freeze(_sent: int) -> None:
            to_all(signal.SIGSTOP)
            frozen.set()

        def check() -> None:
            if frozen.is_set():
                raise KeyboardInterrupt

        source: Any = Adaptor(itertools.repeat(bytes(PART_SIZE)))
        try:
            with pytest.raises(KeyboardInterrupt):
                upload(client, source, checked_place("reports", "a"), {}, check=check, progress=freeze)
        finally:
            to_all(signal.SIGCONT)
        wait_until(lambda: not client.list_multipart_uploads(Bucket="reports").get("Uploads"), "no parts are left")
        client.close()
