"""The Python client, blocking and asyncio, against the real server and a real S3."""

import asyncio
import dataclasses
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from genstatus_server.client import (
    DownloadFailed,
    GenerationRefused,
    ServerUnavailable,
    Status,
    WaitTimedOut,
    async_client,
    sync_client,
)
from genstatus_server.client.rules import Timing
from tests.support.bad_network import BadNetwork, Fault, bad_network
from tests.support.fronts import FRONTS, Front
from tests.support.server import Server, until
from tests.support.services import S3
from tests.support.world import World, upload

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "clients.md"
CONTENT = b"award,amount\n0001,12.50\n" * 20_000


@pytest.fixture(params=FRONTS, ids=lambda front: front.__name__)
def front(request: pytest.FixtureRequest) -> type[Front]:
    """Each test is run with the client that blocks, in a thread, and with the one for asyncio."""
    made: type[Front] = request.param
    return made


@pytest.fixture
def network(io_loop: IOLoop, s3: S3) -> Iterator[BadNetwork]:
    """What is between the client and S3; the server signs for it."""
    with bad_network(io_loop, s3.endpoint_url) as network:
        yield network


@pytest.fixture
def server_options(network: BadNetwork) -> dict[str, str]:
    return {"s3_endpoint_url": network.url}


@pytest.fixture
def finished(io_loop: IOLoop, world: World, s3: S3) -> None:
    """A job that is finished, and its file."""
    upload(s3, "1/D1.csv", CONTENT)

    async def finish() -> None:
        await world.put_job()
        await world.finish(size=len(CONTENT))

    io_loop.run_sync(finish)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_client_waits_and_downloads(
    front: type[Front], server: Server, world: World, s3: S3, tmp_path: Path, network: BadNetwork
) -> None:
    await asyncio.to_thread(upload, s3, "1/D1.csv", CONTENT)
    await world.put_job()
    async with front(server.base_url, "owner") as client:
        waiting = asyncio.ensure_future(client.wait_for_generation(1, "D1", timeout=60))
        await server.held()
        await world.finish(size=len(CONTENT))
        generation = await waiting
        assert (generation.status, generation.size, generation.job_id) == (Status.FINISHED, len(CONTENT), 100)
        told: list[tuple[int, int | None]] = []
        path = tmp_path / "D1.csv"
        assert path == await client.download(
            1, "D1", path, generation=generation, on_progress=lambda *sizes: told.append(sizes)
        )
    assert path.read_bytes() == CONTENT
    assert (told[0], told[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    assert files(tmp_path) == [path]
    assert network.requests == 1
    assert "owner" not in network.heads[0]
    assert "x-session-id" not in network.heads[0].lower()


@pytest.mark.parametrize("status", ["failed", "invalid"])
async def test_client_reports_a_failed_or_invalid_generation(
    front: type[Front], server: Server, world: World, tmp_path: Path, status: str
) -> None:
    await world.put_job(status={"failed": "failed", "invalid": "ready"}[status], message="Too large")
    async with front(server.base_url, "owner") as client:
        generation = await client.wait_for_generation(1, "D1")
        assert (generation.status, generation.url) == (status, "#")
        assert (generation.message == "Too large") is (status == "failed")
        assert generation == await client.check_generation(1, "D1")
        with pytest.raises(DownloadFailed, match=status):
            await client.download(1, "D1", tmp_path / "D1.csv")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("token", "submission_id", "status", "message"),
    [
        ("nobody", 1, 401, "Login Required"),
        ("stranger", 1, 403, "User does not have permission to access that submission"),
        ("owner", 7, 400, "No such submission"),
        ("owner", 0, 400, "submission_id: Must be an integer from 1 to 9223372036854775807."),
        ("x" * 70_000, 1, 431, "Request Header Fields Too Large"),
    ],
)
async def test_client_reports_status_and_message_of_a_refusal(
    front: type[Front], server: Server, world: World, token: str, submission_id: int, status: int, message: str
) -> None:
    async with front(server.base_url + "/", token) as client:
        for asking in (client.wait_for_generation, client.check_generation):
            with pytest.raises(GenerationRefused) as caught:
                await asking(submission_id, "D1")
            assert (caught.value.status, caught.value.message) == (status, message)
            assert caught.value.request_id


async def test_client_reports_the_last_status_at_its_timeout(front: type[Front], server: Server, world: World) -> None:
    await world.put_job()
    async with front(server.base_url, "owner") as client:
        # So that a hold of 0.3 s has nothing to read: where that takes longer it is a 503, which is asked again late.
        await client.check_generation(1, "D1")
        with pytest.raises(WaitTimedOut) as caught:
            await client.wait_for_generation(1, "D1", timeout=3, hold=0.3)
    assert caught.value.last is not None
    assert caught.value.last.status is Status.WAITING


async def test_client_reports_an_unreachable_server(front: type[Front]) -> None:
    async with front("http://127.0.0.1:1", "owner") as client:
        with pytest.raises(ServerUnavailable, match="ConnectError") as caught:
            await client.check_generation(1, "D1")
        assert caught.value.status == 0


async def test_client_refuses_an_oversized_answer(
    front: type[Front], server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sync_client, async_client):
        monkeypatch.setattr(module, "LARGEST_ANSWER", 10)
    async with front(server.base_url, "owner") as client:
        with pytest.raises(ServerUnavailable, match="does not end"):
            await client.check_generation(1, "D1")


async def test_client_requests_an_expired_url_once_more(
    front: type[Front], server: Server, finished: None, tmp_path: Path, network: BadNetwork
) -> None:
    async with front(server.base_url, "owner") as client:
        generation = await client.check_generation(1, "D1")
        old = dataclasses.replace(generation, url=generation.url.replace("X-Amz-Expires=60", "X-Amz-Expires=61"))
        path = await client.download(1, "D1", tmp_path / "D1.csv", generation=old)
        assert path.read_bytes() == CONTENT
        assert network.requests == 2
        network.worsen([Fault(status=403)] * 2)
        with pytest.raises(DownloadFailed, match="HTTP 403"):
            await client.download(1, "D1", path)
    assert network.requests == 4
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == [path]


@pytest.mark.parametrize("cut", [30_000, 200_000])
async def test_client_restarts_an_interrupted_download(
    front: type[Front], server: Server, finished: None, tmp_path: Path, network: BadNetwork, cut: int
) -> None:
    network.worsen([Fault(cut=0), Fault(cut=cut), Fault(status=502)])
    async with front(server.base_url, "owner") as client:
        client.inner.timing = Timing(client.inner.timing.clock, lambda: 0.0)
        path = await client.download(1, "D1", tmp_path / "D1.csv", timeout=60)
    assert path.read_bytes() == CONTENT
    assert network.requests == 4
    cut_off, refused, again = network.heads[1:]
    assert "range:" not in cut_off.lower()
    assert "\r\nrange: bytes=" in refused.lower()
    assert "\r\nif-range: " in again.lower()
    assert network.answer_length < len(CONTENT)


async def test_client_writes_each_byte_to_a_stream_once(
    front: type[Front], server: Server, finished: None, network: BadNetwork
) -> None:
    network.worsen([Fault(cut=200_000)])
    stream = io.BytesIO()
    async with front(server.base_url, "owner") as client:
        client.inner.timing = Timing(client.inner.timing.clock, lambda: 0.0)
        assert await client.download_to(1, "D1", stream, timeout=60) == len(CONTENT)
    assert stream.getvalue() == CONTENT
    assert network.requests == 2


async def test_client_refuses_a_file_of_the_wrong_size(
    front: type[Front], server: Server, finished: None, world: World, tmp_path: Path, network: BadNetwork
) -> None:
    await world.finish(size=len(CONTENT) + 1)
    async with front(server.base_url, "owner") as client:
        client.inner.timing = Timing(client.inner.timing.clock, lambda: 0.0)
        with pytest.raises(DownloadFailed, match=f"{len(CONTENT)} bytes came instead of {len(CONTENT) + 1}"):
            await client.download(1, "D1", tmp_path / "D1.csv")
    assert network.requests == 5
    assert files(tmp_path) == []


async def test_client_refuses_a_download_into_a_missing_folder(
    front: type[Front], server: Server, finished: None, tmp_path: Path
) -> None:
    async with front(server.base_url, "owner") as client:
        with pytest.raises(FileNotFoundError):
            await client.download(1, "D1", tmp_path / "no" / "D1.csv")


async def test_client_frees_its_hold_when_a_wait_is_cancelled(server: Server, world: World) -> None:
    await world.put_job()
    async with FRONTS[1](server.base_url, "owner") as client:
        waiting = asyncio.ensure_future(client.wait_for_generation(1, "D1"))
        await server.held()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: not len(server.services.holds), what="the hold is freed")


async def test_client_leaves_no_part_when_a_download_is_cancelled(
    server: Server, finished: None, network: BadNetwork, tmp_path: Path
) -> None:
    network.worsen([Fault(lost=True)])
    async with FRONTS[1](server.base_url, "owner") as client:
        download = asyncio.ensure_future(client.download(1, "D1", tmp_path / "D1.csv"))
        await until(lambda: network.requests, what="the download has begun")
        assert len(files(tmp_path)) == 1
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
    assert not files(tmp_path)


@pytest.mark.parametrize("proxy", ["127.0.0.1:x", "nonsense://127.0.0.1:1"])
def test_client_names_a_proxy_that_cannot_be_used(
    front: type[Front], monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ValueError, match="proxy"):
        front("http://127.0.0.1:1", "owner")


#: Each process asks for a job of its own, over and over, by one client that was made and used before the fork.
FORKING = """
import os, sys
from genstatus_server.client import GenerationClient

client = GenerationClient(sys.argv[1], "owner")
client.check_generation(1, "D1")
jobs = {"D1": 100, "D2": 101, "E": 102, "F": 103}

def asks(file_type):
    return all(client.check_generation(1, file_type).job_id == jobs[file_type] for _ in range(25))

children = []
for file_type in ("D2", "E", "F"):
    pid = os.fork()
    if not pid:
        os._exit(0 if asks(file_type) else 1)
    children.append(pid)
assert asks("D1")
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
"""


async def test_client_may_be_used_by_forked_processes(server: Server, world: World) -> None:
    """The trap: two processes on one connection get each other's answers."""
    for job_id, file_type in enumerate(("D1", "D2", "E", "F"), 100):
        await world.put_job(job_id, file_type)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, server.base_url)
    assert await process.wait() == 0


async def test_client_serves_many_waits_at_once(server: Server, world: World) -> None:
    await world.put_job()
    async with FRONTS[1](server.base_url, "owner") as client:
        waits = [asyncio.ensure_future(client.wait_for_generation(1, "D1")) for _ in range(60)]
        await server.held(60)
        await world.finish()
        assert {(await waiting).status for waiting in waits} == {Status.FINISHED}


async def test_client_follows_no_redirect(front: type[Front], io_loop: IOLoop) -> None:
    seen: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 307 Elsewhere\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(redirect, "127.0.0.1", 0) as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}"
        async with front(url, "owner") as client:
            with pytest.raises(ServerUnavailable, match="HTTP 307"):
                await client.check_generation(1, "D1")
    assert len(seen) == 1


async def test_client_logs_no_token_and_no_signature(
    front: type[Front],
    server: Server,
    finished: None,
    tmp_path: Path,
    network: BadNetwork,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network.worsen([Fault(cut=300)])
    # Of the client, and not of the server that runs in the same process.
    with caplog.at_level(logging.DEBUG, "httpx"), caplog.at_level(logging.DEBUG, "httpcore"):
        async with front(server.base_url, "owner") as client:
            await client.download(1, "D1", tmp_path / "D1.csv")
    assert "HTTP Request: GET http://127.0.0.1" in caplog.text
    assert "X-Amz-Signature" not in caplog.text
    assert "owner" not in caplog.text


async def test_client_sample_of_the_documentation_runs(server: Server, finished: None, tmp_path: Path) -> None:
    text = await asyncio.to_thread(DOCUMENTATION.read_text)
    sample = text.partition("```python\n")[2].partition("```")[0]
    for written, here in {
        "https://status.example.gov": server.base_url,
        "(123": "(1",
        '"D1.csv"': repr(str(tmp_path / "D1.csv")),
    }.items():
        assert written in sample
        sample = sample.replace(written, here)
    code = f"session_token = 'owner'\n{sample}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
    assert (tmp_path / "D1.csv").read_bytes() == CONTENT


def modules_after(statement: str) -> set[str]:
    """The top names of all that is imported, in a Python of its own."""
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    loaded: list[str] = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    return set(loaded)


#: What the extras `client` and `worker` and `embedded` install.
WITHOUT_EXTRAS = "import sys; sys.modules.update(dict.fromkeys(['httpx', 'rich', 'boto3', 'fiftyone']))"


def test_client_imports_no_library_of_the_server() -> None:
    server_side = {"tornado", "motor", "pymongo", "aiobotocore", "botocore", "marshmallow", "prometheus_client"}
    for statement in ("import genstatus_server.client", "import genstatus_server.client.wait"):
        assert not modules_after(statement) & server_side
    assert "httpx" in modules_after("from genstatus_server.client import GenerationClient")


def test_server_imports_without_the_libraries_of_the_client() -> None:
    assert "tornado" in modules_after(f"{WITHOUT_EXTRAS}; import genstatus_server.cli, genstatus_server.server.run")


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["--help"], 0, "  wait "),
        (["wait", "--help"], 0, "Exit status: 0 finished"),
        (["worker", "run", "--help"], 0, "MODULE:FUNCTION"),
        (
            ["wait", "--url=http://a", "--submission=1", "--file-type=E"],
            2,
            "pip install '.[client]' in the source folder",
        ),
    ],
)
def test_commands_do_without_the_libraries_of_extras(arguments: list[str], status: int, shown: str) -> None:
    """The trap: the help of all commands ended in a traceback where one library was not installed."""
    code = f"{WITHOUT_EXTRAS}; from genstatus_server.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, shown in ended.stdout + ended.stderr) == (status, True), ended.stderr
    assert "Traceback" not in ended.stderr
