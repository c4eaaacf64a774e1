"""Several server processes on one port: real ones, stopped and killed."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from genstatus_server.server.supervisor import open_channel
from genstatus_server.server.system import usable_cores
from genstatus_server.settings import INHERITED
from genstatus_server.telemetry.metrics import Metrics, add_up, collect, exposition, totals
from tests.support.proc import children_of, is_running
from tests.support.processes import DEADLINE, ServerProcess, credentials, flags_for, running_server, wait_until
from tests.support.scene import Scene
from tests.support.services import S3

if TYPE_CHECKING:
    import pymongo

HELD = "/v1/check_generation_status/?submission_id=1&file_type=D1&wait=true&timeout=50"


class Asked:
    """Requests that ask to wait, each on a connection of its own, answered in threads."""

    def __init__(self, server: ServerProcess) -> None:
        self._netloc = urlsplit(server.url).netloc
        self._threads: list[threading.Thread] = []
        self.results: list[str | None] = []

    def ask(self, count: int) -> None:
        for _ in range(count):
            self._threads.append(threading.Thread(target=self._ask))
            self._threads[-1].start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._netloc, timeout=DEADLINE)
        try:
            connection.request("GET", HELD, headers={"X-Session-ID": "owner"})
            self.results.append(connection.getresponse().getheader("X-Wait-Result"))
        except (OSError, http.client.HTTPException) as error:
            self.results.append(type(error).__name__)
        finally:
            connection.close()

    def join(self) -> list[str | None]:
        for thread in self._threads:
            thread.join(DEADLINE)
        return self.results


@contextmanager
def stopped(pid: int) -> Iterator[int]:
    """A process that does nothing, and accepts no connection, for as long as the block lasts."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "T" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0], "stopped")
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def hold_two_each(server: ServerProcess, children: list[int]) -> Asked:
    """Two holds in either process, and one request that the second has no room for."""
    asked = Asked(server)
    with stopped(children[0]):
        asked.ask(3)
        wait_until(lambda: asked.results == ["shed"], "one was shed")
    with stopped(children[1]):
        asked.ask(2)
        wait_until(lambda: server.metrics()["genstatus_held_requests"] == 2, "two are held by the one that can say so")
    assert server.metrics()["genstatus_held_requests"] == 4
    return asked


def test_supervisor_adds_up_metrics_and_replaces_killed_processes(
    tmp_path: Path, mongodb_uri: str, sync_mongodb: "pymongo.MongoClient[dict[str, Any]]", database_name: str, s3: S3
) -> None:
    """Two processes, each with room for two holds, and a job in `waiting`."""
    Scene(sync_mongodb, database_name).prepare([1])
    options = {"processes": "2", "max-waits": "2", "drain-timeout": "1"}
    with running_server(tmp_path, flags_for(mongodb_uri, database_name, s3, **options), credentials(s3)) as served:
        wait_until(lambda: len(served.records("change_stream_open")) == 2, "both processes")
        children = children_of(served.process.pid)
        asked = hold_two_each(served, children)
        check_metrics_of_all(served)
        check_replacement(served, children)
        assert served.end() == 0
        assert sorted(map(str, asked.join())) == ["RemoteDisconnected"] * 2 + ["draining"] * 2 + ["shed"]


def check_metrics_of_all(served: ServerProcess) -> None:
    for _ in range(10):  # Either process may be the one that answers.
        found = served.metrics()
        assert found["genstatus_held_requests"] == 4
        assert found["genstatus_processes"] == 2
        assert found["genstatus_shed_total"] == 1
        assert found["genstatus_change_stream_up"] == 1
        assert 0 < found["genstatus_oldest_hold_seconds"] < 60
        assert len([name for name in found if name.startswith("genstatus_build_info")]) == 1


def check_replacement(served: ServerProcess, children: list[int]) -> None:
    """What a process counted stays; each replacement starts later than the one before."""
    before = served.metrics()
    os.kill(children[1], signal.SIGKILL)  # The one that shed a request.
    wait_until(lambda: served.records("process_died"), "the death is logged")
    assert (
        served.records("process_died")[0] | {"status": -9, "next_start_seconds": 1.0}
        == served.records("process_died")[0]
    )
    after = served.metrics()
    assert after["genstatus_held_requests"] == 2
    assert after["genstatus_shed_total"] == 1
    assert after["genstatus_process_restarts_total"] == 1
    for name, value in before.items():
        if name.endswith(("_total", "_count", "_sum", "_bucket")) or "_bucket{" in name:
            assert after[name] >= value, name
    wait_until(lambda: served.metrics()["genstatus_processes"] == 2, "the replacement")
    assert len(served.records("process_died")) == 1
    (new,) = set(children_of(served.process.pid)) - set(children)
    os.kill(new, signal.SIGKILL)
    wait_until(lambda: len(served.records("process_died")) == 2, "the second death is logged")
    assert served.records("process_died")[1]["next_start_seconds"] == 2.0


@pytest.mark.one_python
def test_process_that_cannot_be_replaced_is_tried_again(
    tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3
) -> None:
    configuration = tmp_path / "aws"
    configuration.write_text("[profile reports]\n")
    environment = credentials(s3) | {"AWS_PROFILE": "reports", "AWS_CONFIG_FILE": str(configuration)}
    with running_server(tmp_path, flags_for(mongodb_uri, database_name, s3, processes="2"), environment) as served:
        wait_until(lambda: len(served.records("listening")) == 2, "both processes")
        configuration.write_text("")
        os.kill(children_of(served.process.pid)[0], signal.SIGKILL)
        wait_until(lambda: served.records("process_not_started"), "the replacement cannot start")
        assert "(reports) could not be found" in served.records("process_not_started")[0]["cause"]
        configuration.write_text("[profile reports]\n")
        wait_until(lambda: len(served.records("listening")) == 3, "the next one can")
        assert served.end() == 0


def test_supervisor_starts_a_process_per_core_and_kills_hanging_ones(
    tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3
) -> None:
    cores = os.sched_getaffinity(0)
    flags = flags_for(mongodb_uri, database_name, s3, processes="0", **{"drain-timeout": "1"})
    os.sched_setaffinity(0, sorted(cores)[:2])  # What the test starts may run on no more.
    try:
        with running_server(tmp_path, flags, credentials(s3)) as server:
            count = min(2, len(cores))
            wait_until(lambda: len(server.records("change_stream_open")) == count, "as many processes as cores")
            assert server.metrics()["genstatus_processes"] == count
            child = children_of(server.process.pid)[0]
            with stopped(child):
                if count > 1:  # Its metrics are those of the last request.
                    assert server.metrics()["genstatus_processes"] == count
                assert server.end() == 0
                assert server.records("process_killed")[0]["pid"] == child
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.one_python
def test_second_signal_kills_a_process_that_hangs(tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3) -> None:
    """The trap: it kept the port."""
    with running_server(tmp_path, flags_for(mongodb_uri, database_name, s3, processes="2"), credentials(s3)) as served:
        wait_until(lambda: len(served.records("listening")) == 2, "both processes")
        with stopped(children_of(served.process.pid)[0]) as hanging:
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: served.records("draining"), "the other one drains")
            assert served.end() == 128 + signal.SIGTERM
            wait_until(lambda: not is_running(hanging), "it is gone")


@pytest.mark.one_python
def test_signal_to_all_processes_at_once_drains(tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3) -> None:
    """The trap: each process took the signal that its parent passed on for a second one."""
    flags = flags_for(mongodb_uri, database_name, s3, processes="2", **{"shutdown-delay": "1"})
    with running_server(tmp_path, flags, credentials(s3)) as served:
        wait_until(lambda: len(served.records("listening")) == 2, "both processes")
        for pid in (*children_of(served.process.pid), served.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert served.process.wait(DEADLINE) == 0
        assert len(served.records("stopped")) == 2


def test_processes_import_nothing_from_the_working_directory(
    tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit(3)\n")
    flags = flags_for(mongodb_uri, database_name, s3, processes="2")
    command = [str(Path(sys.executable).with_name("genstatus")), "serve", *flags]
    log, environment = tmp_path / "log", {**os.environ, **credentials(s3)}
    with log.open("wb") as stderr, subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=stderr) as process:
        wait_until(lambda: log.read_text().count('"listening"') == 2 or process.poll() is not None, "it has started")
        process.terminate()
        assert process.wait(DEADLINE) == 0


def test_process_that_fails_without_a_word_ends_the_start(
    tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os\nif {INHERITED!r} in os.environ: os._exit(3)\n")
    environment = credentials(s3) | {"PYTHONPATH": str(tmp_path)}
    with running_server(tmp_path, flags_for(mongodb_uri, database_name, s3, processes="2"), environment) as served:
        assert served.process.wait(DEADLINE) == 1
        assert "genstatus: a process ended with status 3 as it started" in served.log


def test_usable_cores_heed_the_cpu_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(tmp_path) == 64


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        # Version 2: in a container, on the machine itself, and without a quota.
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/a/b", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/a/b", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "9900000 100000"}, 64),
        ("0::/", {"cpu.max": "nonsense"}, 64),
        # Version 1: in a container, whose path is the machine's, and on the machine itself.
        ("3:cpu,cpuacct:/docker/a", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("1:memory:/b\n3:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("4:cpuset:/", {"cpu.max": "100000 100000"}, 64),
    ],
)
def test_usable_cores_heed_the_cpu_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for name, content in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": files[name] for name in files},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert usable_cores(tmp_path) == cores


def one(name: str, kind: str, value: float, **labels: str) -> list[Any]:
    return [name, kind, "", [[name, labels, value]]]


def test_add_up_combines_metrics_by_their_meaning() -> None:
    merged = add_up(
        [
            [one("genstatus_oldest_hold_seconds", "gauge", 3), one("genstatus_change_stream_up", "gauge", 1)],
            [one("genstatus_oldest_hold_seconds", "gauge", 7), one("genstatus_change_stream_up", "gauge", 0)],
            [one("x", "counter", 1, status="200"), one("x", "counter", 2, status="500")],
            [one("x", "counter", 4, status="200")],
        ]
    )
    assert merged[0][3] == [["genstatus_oldest_hold_seconds", {}, 7]]
    assert merged[1][3] == [["genstatus_change_stream_up", {}, 0]]
    assert merged[2][3] == [["x", {"status": "200"}, 5], ["x", {"status": "500"}, 2]]
    assert [family[0] for family in totals(merged)] == ["x"]


def test_exposition_shows_added_up_metrics() -> None:
    metrics = Metrics()
    metrics.requests_of(200).inc(3)
    metrics.hold_seconds.labels("settled").observe(2)
    twice = add_up([collect(metrics.registry)] * 2)
    text = exposition(twice)
    assert 'genstatus_requests_total{status="200"} 6.0\n' in text
    assert 'genstatus_hold_seconds_bucket{le="+Inf",result="settled"} 2.0\n' in text
    assert "# TYPE genstatus_hold_seconds histogram\n" in text
    assert "# TYPE genstatus_requests_total counter\n" in text


async def test_channel_raises_when_the_other_end_hangs_or_is_gone() -> None:
    ours, theirs = socket.socketpair()
    gone = asyncio.Event()
    async with open_channel(ours, gone.set) as channel:
        with pytest.raises(TimeoutError):
            await channel.request(0.01)
        theirs.close()
        with pytest.raises(ConnectionError):
            await channel.request()
        await gone.wait()
        with pytest.raises(ConnectionError):
            await channel.request()


@pytest.mark.parametrize("rest", [b'{"reply": 0, "te', b'{"failure": nu', b""])
async def test_channel_ends_where_its_other_end_was_killed_within_a_line(rest: bytes) -> None:
    ours, theirs = socket.socketpair()
    async with open_channel(ours) as channel:
        theirs.send(rest)
        theirs.close()
        await asyncio.wait_for(channel.ended.wait(), DEADLINE)


async def test_channel_takes_requests_from_both_ends_at_once() -> None:
    ours, theirs = socket.socketpair()
    async with open_channel(ours) as parent, open_channel(theirs) as child:

        async def through_the_parent() -> str:
            return "all of: " + await child_says()

        async def child_says() -> str:
            return await parent.request()

        async def of_the_child() -> str:
            return "mine"

        parent.reply, child.reply = through_the_parent, of_the_child
        assert await child.request() == "all of: mine"
