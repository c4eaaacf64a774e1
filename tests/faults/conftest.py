"""What the faults happen to: a replica set of three nodes, and the server as a process of its own."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served, serving
from tests.support.replica_set import ReplicaSet, running_replica_set
from tests.support.scene import Scene, scene
from tests.support.services import S3

#: A primary that is told to end lets its clients find out, for 15 s by default.
QUIET_TIME = ("--setParameter", f"shutdownTimeoutMillisForSignaledShutdown={scaled(1000, 15000)}")
#: `with serve(uri, database_name, option="value") as served`
Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    with running_replica_set(tmp_path_factory.mktemp("set"), arguments=QUIET_TIME) as nodes:
        yield nodes


@pytest.fixture
def replica_set(three_nodes: ReplicaSet) -> Iterator[ReplicaSet]:
    """Three nodes, whole when the test begins."""
    three_nodes.restore()
    yield three_nodes
    three_nodes.restore()


@pytest.fixture
def set_of_one(tmp_path: Path) -> Iterator[ReplicaSet]:
    """A node of the test's own."""
    arguments = (*QUIET_TIME, "--syncdelay", "1")  # The oplog is not cut before the next checkpoint, else in a minute.
    with running_replica_set(tmp_path / "mongodb", 1, arguments=arguments) as made:
        yield made


@pytest.fixture
def on_the_set(replica_set: ReplicaSet) -> Iterator[Scene]:
    """An empty database on the replica set."""
    with scene(replica_set.uri, f"test_{uuid.uuid4().hex}") as made:
        yield made


@pytest.fixture
def on_one(mongodb_uri: str) -> Iterator[Scene]:
    """An empty database on the set of one that all tests share, for faults that are not MongoDB's."""
    with scene(mongodb_uri, f"test_{uuid.uuid4().hex}") as made:
        yield made


@pytest.fixture
def serve(tmp_path: Path, s3: S3) -> Serve:
    """Runs the server under test beside the test, for as long as a block lasts."""
    return partial(serving, tmp_path, s3)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Takes what a test has measured."""
    return Figures(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that the tests have measured."""
    reports = [report for each in terminalreporter.stats.values() for report in each]
    figures = [
        (report.nodeid.rpartition("/")[2], *each)
        for report in reports
        if getattr(report, "when", "") == "call"
        for each in report.user_properties
    ]
    if figures:
        terminalreporter.section("measured")
        for nodeid, name, value in figures:
            terminalreporter.write_line(f"{value:>12}  {name}  ({nodeid})")
