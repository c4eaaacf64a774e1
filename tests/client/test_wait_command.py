"""`genstatus wait` as people and scripts run it: a process of its own, with and without a terminal."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner
from tornado.ioloop import IOLoop

from genstatus_server.client.command import wait
from tests.support.bad_network import BadNetwork, Fault, bad_network
from tests.support.server import Server, until
from tests.support.services import S3
from tests.support.world import World, upload

CONTENT = b"award,amount\n" * 1000
SECONDS = 60


@pytest.fixture
def storage_network(io_loop: IOLoop, s3: S3) -> Iterator[BadNetwork]:
    """What is between the command and S3; the server signs for it."""
    with bad_network(io_loop, s3.endpoint_url) as network:
        yield network


@pytest.fixture
def server_options(storage_network: BadNetwork) -> dict[str, str]:
    return {"s3_endpoint_url": storage_network.url}


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def held(server: Server) -> None:
    """Wait until the command's request is held."""
    await until(server.services.holds.waiting, seconds=SECONDS, what="held")


class Waiting:
    """The running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        async with asyncio.timeout(SECONDS):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()


@asynccontextmanager
async def genstatus_wait(
    url: str,
    *options: str,
    token: str | None = "owner",
    submission: str = "1",
    terminal: int | None = None,
    stdout: int | IO[bytes] = asyncio.subprocess.PIPE,
) -> AsyncIterator[Waiting]:
    """The command, killed at the end where it still runs; with `terminal`, that is where it reads and reports."""
    environment = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "NO_COLOR"}}
    environment |= {"TERM": "xterm", "COLUMNS": "100"} | (
        {"GENSTATUS_SESSION_TOKEN": token} if token is not None else {}
    )
    arguments = ["wait", "--url", url, "--submission", submission, "--file-type", "D1", *options]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "genstatus_server", *arguments),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL if terminal is None else terminal,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE if terminal is None else terminal,
        start_new_session=True,
    )
    try:
        yield Waiting(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Terminal:
    """A terminal: what the command shows is in `shown`."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.shown = ""
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        try:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        except OSError:
            asyncio.get_running_loop().remove_reader(self.master)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(io_loop: IOLoop) -> Iterator[Terminal]:
    async def make() -> Terminal:
        return Terminal()

    async def close() -> None:
        made.close()

    made = io_loop.run_sync(make)
    yield made
    io_loop.run_sync(close)


async def test_wait_command_waits_and_prints_the_url(server: Server, world: World, s3: S3) -> None:
    await asyncio.to_thread(upload, s3, "1/D1.csv", CONTENT)
    await world.put_job()
    async with genstatus_wait(server.base_url) as waiting:
        await held(server)
        await world.finish(size=len(CONTENT))
        status, out, err = await waiting.ended()
    assert status == 0
    assert (await server.client.fetch(out.strip())).body == CONTENT
    assert err.splitlines() == ["D1 of submission 1: waiting", "D1 of submission 1: finished"]


async def test_wait_command_downloads_and_prints_the_path(server: Server, world: World, s3: S3, tmp_path: Path) -> None:
    await asyncio.to_thread(upload, s3, "1/D1.csv", CONTENT)
    await world.put_job()
    await world.finish(size=len(CONTENT))
    path = tmp_path / "D1.csv"
    async with genstatus_wait(server.base_url, "--download", str(path), "--timeout", "30") as waiting:
        status, out, err = await waiting.ended()
    assert (status, out) == (0, f"{path}\n")
    assert path.read_bytes() == CONTENT
    assert err.splitlines()[-1] == f"D1 of submission 1: downloaded {len(CONTENT)} bytes"
    assert "X-Amz" not in err


@pytest.mark.parametrize(
    ("job", "status", "said"),
    [
        ({"status": "failed", "message": "Too\x1b[31m large"}, 1, "D1 of submission 1: failed: Too [31m large"),
        ({"status": "ready"}, 3, "D1 of submission 1: invalid: the file was never requested"),
    ],
)
async def test_wait_command_reports_a_failed_or_invalid_generation(
    server: Server, world: World, job: dict[str, Any], status: int, said: str
) -> None:
    await world.put_job(**job)
    async with genstatus_wait(server.base_url) as waiting:
        ended, out, err = await waiting.ended()
    assert (ended, out) == (status, "")
    assert err.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("token", "submission", "status", "said"),
    [
        ("stranger", "1", 4, "User does not have permission to access that submission"),
        ("owner", "7", 2, "No such submission"),
    ],
)
async def test_wait_command_reports_a_refusal_in_one_line(
    server: Server, world: World, token: str, submission: str, status: int, said: str
) -> None:
    async with genstatus_wait(server.base_url, token=token, submission=submission) as waiting:
        ended, out, err = await waiting.ended()
    assert (ended, out) == (status, "")
    assert err.splitlines() == [f"D1 of submission {submission}: {said}"]


async def test_wait_command_exits_with_124_at_its_timeout(server: Server, world: World) -> None:
    await world.put_job()
    async with genstatus_wait(server.base_url, "--timeout", "1.5") as waiting:
        status, out, err = await waiting.ended()
    assert (status, out) == (124, "")
    assert err.splitlines()[-1].startswith("D1 of submission 1: no result within 1.5 seconds")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no/D1.csv", "No such file or directory"),
        (".", "Is a directory"),
        ("/dev/null", "no ordinary file"),
        ("/proc/D1.csv", "No such file"),
        ("missing/", "names a folder"),
    ],
)
def test_wait_command_checks_the_path_before_the_wait(tmp_path: Path, name: str, said: str) -> None:
    path = os.path.join(tmp_path, name)  # noqa: PTH118 - a Path would drop the slash at its end
    status, output = run_here("--download", path)
    assert status == 2
    assert said in output
    assert f"{path}: " in output
    assert "ConnectError" not in output
    assert files(tmp_path) == []


def test_wait_command_takes_a_dash_in_a_folder_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").mkdir()
    status, output = run_here("--download", "./-")
    assert (status, "Is a directory" in output) == (2, True)


@pytest.mark.parametrize("options", ["", "--download -", "--download D1.csv"])
@pytest.mark.parametrize(
    ("closed", "told"),
    [
        (">&-", "D1 of submission 1: standard output is closed\n"),
        ("<&-", "genstatus wait: set GENSTATUS_SESSION_TOKEN to the session token\n"),
    ],
)
def test_wait_command_reports_closed_streams_in_one_line(tmp_path: Path, options: str, closed: str, told: str) -> None:
    token = "GENSTATUS_SESSION_TOKEN=owner" if closed == ">&-" else "-u GENSTATUS_SESSION_TOKEN"
    command = f"wait --url http://127.0.0.1:1 --submission 1 --file-type D1 {options} {closed}"
    line = f"cd {tmp_path}; exec env {token} {sys.executable} -m genstatus_server {command}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S607 - it is ours
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", told)
    assert files(tmp_path) == []


async def test_wait_command_reports_an_output_that_takes_nothing(server: Server, world: World, s3: S3) -> None:
    await asyncio.to_thread(upload, s3, "1/D1.csv", CONTENT)
    await world.put_job()
    await world.finish(size=len(CONTENT))
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb") as full:
        for options in ([], ["--download", "-"]):
            async with genstatus_wait(server.base_url, *options, stdout=full) as waiting:
                status, _, err = await waiting.ended()
            assert (status, err.splitlines()[-1]) == (1, "D1 of submission 1: [Errno 28] No space left on device")


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
async def test_wait_command_downloads_to_standard_output(server: Server, world: World, s3: S3, name: str) -> None:
    await asyncio.to_thread(upload, s3, "1/D1.csv", CONTENT)
    await world.put_job()
    await world.finish(size=len(CONTENT))
    async with genstatus_wait(server.base_url, "--download", name) as waiting:
        status, out, _ = await waiting.ended()
    assert (status, out.encode()) == (0, CONTENT)


def run_here(*options: str, token: str | None = "owner", url: str = "http://127.0.0.1:1") -> tuple[int, str]:
    """The command without a process of its own: exit status, and all that it wrote."""
    arguments = ["--url", url, "--submission", "1", "--file-type", "D1", *options]
    ended = CliRunner().invoke(wait, arguments, env={"GENSTATUS_SESSION_TOKEN": token})
    return ended.exit_code, ended.output


def test_wait_command_documents_every_exit_status() -> None:
    shown = " ".join(CliRunner().invoke(wait, ["--help"]).output.split())
    written = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    for status, meaning in {
        0: "finished",
        1: "failed",
        2: "usage",
        3: "invalid",
        4: "no access",
        124: "timed out",
    }.items():
        assert f"{status} {meaning}" in shown
        assert f"\n| {status} | " in written


@pytest.mark.parametrize(
    "options",
    [("--submission", "x"), ("--submission", "0"), ("--file-type", "D3"), ("--timeout", "0"), ("--token", "x")],
)
def test_wait_command_refuses_bad_options_with_status_2(options: tuple[str, ...]) -> None:
    assert run_here(*options)[0] == 2


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x"])
def test_wait_command_refuses_an_invalid_url(url: str) -> None:
    told = "D1 of submission 1: the server's URL must begin with http:// or https:// and a host\n"
    assert run_here(url=url) == (2, told)


def test_wait_command_reports_an_unreachable_server() -> None:
    status, output = run_here("--timeout", "0.5")
    assert status == 124
    assert "ConnectError" in output


def test_wait_command_refuses_an_invalid_token() -> None:
    told = "D1 of submission 1: the session token must be of printable ASCII characters, without spaces around it\n"
    assert run_here(token="a\nb") == (2, told)


@pytest.mark.parametrize("token", [None, ""])
def test_wait_command_requires_a_token_without_a_terminal(token: str | None) -> None:
    assert run_here(token=token) == (2, "genstatus wait: set GENSTATUS_SESSION_TOKEN to the session token\n")


async def test_wait_command_says_how_to_install_a_missing_extra() -> None:
    code = "import sys; sys.modules['rich'] = None; from genstatus_server.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "wait", "--url=http://x", "--submission=1", "--file-type=E"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert err.decode() == "genstatus wait: needs rich: pip install '.[client]' in the source folder\n"


async def test_wait_command_ends_at_ctrl_c(server: Server, world: World) -> None:
    await world.put_job()
    async with genstatus_wait(server.base_url) as waiting:
        await held(server)
        waiting.process.send_signal(signal.SIGINT)
        status, out, err = await waiting.ended()
        await until(lambda: not len(server.services.holds), what="the hold is freed")
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == "D1 of submission 1: interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_wait_command_removes_the_partial_file_at_a_signal(
    server: Server, world: World, storage_network: BadNetwork, tmp_path: Path, number: signal.Signals
) -> None:
    await world.put_job()
    await world.finish()
    storage_network.worsen([Fault(lost=True)])
    async with genstatus_wait(server.base_url, "--download", str(tmp_path / "D1.csv")) as waiting:
        await until(lambda: storage_network.requests, seconds=SECONDS, what="the download has begun")
        assert [path.suffix for path in files(tmp_path)] == [".part"]
        waiting.process.send_signal(number)
        status, out, err = await waiting.ended()
    assert (status, out) == (128 + number, "")
    assert "Traceback" not in err
    assert files(tmp_path) == []


async def test_wait_prompts_for_the_token_and_shows_progress(
    server: Server, world: World, s3: S3, terminal: Terminal, tmp_path: Path
) -> None:
    await asyncio.to_thread(upload, s3, "1/D1.csv", CONTENT)
    await world.put_job()
    path = tmp_path / "D1.csv"
    download = ("--download", str(path))
    async with genstatus_wait(server.base_url, *download, token=None, terminal=terminal.slave) as waiting:
        await until(lambda: "Session token: " in terminal.shown, seconds=SECONDS)
        terminal.type("owner\n")
        await held(server)
        await until(lambda: "D1 of submission 1: waiting" in terminal.shown and "0:00:0" in terminal.shown)
        await world.finish(size=len(CONTENT))
        status, out, _ = await waiting.ended()
        await until(lambda: "13.0/13.0 kB" in terminal.shown, what=repr(terminal.shown))
    assert (status, out) == (0, f"{path}\n")
    assert path.read_bytes() == CONTENT
    assert "owner" not in terminal.shown
    assert "D1 of submission 1: finished" in terminal.shown
    assert terminal.shown.count("\x1b[?25l") == terminal.shown.count("\x1b[?25h")  # The cursor is back.


async def test_wait_command_erases_its_spinner_at_ctrl_c(server: Server, world: World, terminal: Terminal) -> None:
    await world.put_job()
    async with genstatus_wait(server.base_url, terminal=terminal.slave) as waiting:
        await until(lambda: "D1 of submission 1: waiting" in terminal.shown, seconds=SECONDS)
        waiting.process.send_signal(signal.SIGINT)
        status, *_ = await waiting.ended()
        await until(lambda: "interrupted" in terminal.shown, what=repr(terminal.shown))
    assert status == 130
    erased = terminal.shown.rpartition("\x1b[2K")[2]
    assert "waiting" not in erased, repr(terminal.shown)
