"""A MongoDB without change streams: said once, and the whole suite of the hold passes by re-reading."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pymongo
import pytest

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.hold import test_hold
from tests.support.holds import counted, holding, question
from tests.support.processes import wait_until
from tests.support.replica_set import running_node
from tests.support.scene import TOKEN, scene

TRANSACTIONS = "a standalone has no transactions"
HOLDS = scaled(300, 1000)
NUMBERS = range(1, HOLDS + 1)
#: Seconds, with a look at everything held in each.
TICKS = 3
JOBS_READ = 'genstatus_mongodb_reads_total{collection="jobs"}'

#: What of the suite makes no sense here, by its name, and why.
LEFT_OUT: Final = {
    "test_hold_is_not_woken_by_an_aborted_transaction": TRANSACTIONS,
    "test_hold_ends_when_a_job_of_another_id_replaces_it": TRANSACTIONS,
    "test_hold_reads_nothing_while_nothing_changes": "the held jobs are read every second",
    "test_hold_answers_an_update_without_a_read": "no change tells anything",
    "test_holds_of_one_job_share_a_few_reads": "it counts reads, and nothing is cached",
    "test_hold_is_not_woken_by_invisible_changes": "a re-read wakes only where the answer differs",
}
#: Parameters of a test that make no sense here.
LEFT_OUT_WRITES: Final = {
    test_hold.by_transaction: TRANSACTIONS,
    test_hold.by_upsert_after_delete: TRANSACTIONS,
}

#: The same tests, collected here once more: with this module's `mongodb_uri`.
globals().update(
    {name: each for name, each in vars(test_hold).items() if name.startswith("test_") and name not in LEFT_OUT}
)


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mongod that is no replica set."""
    with running_node(tmp_path_factory.mktemp("standalone")) as node:
        yield node.uri


@pytest.fixture(scope="session")
def sync_mongodb(mongodb_uri: str) -> Iterator["pymongo.MongoClient[dict[str, Any]]"]:
    """As all tests have it, but of this module's MongoDB: pytest would hand out the other one's."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_uri) as client:
        yield client


@pytest.fixture(autouse=True)
def makes_sense_here(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    reason = LEFT_OUT_WRITES.get(callspec.params.get("write")) if callspec else None
    if reason:
        pytest.skip(reason)


def test_standalone_is_logged_once_and_holds_end_by_rereading(mongodb_uri: str, serve: Serve, figures: Figures) -> None:
    with (
        scene(mongodb_uri, f"test_{uuid.uuid4().hex}") as made,
        serve(mongodb_uri, made.name) as served,
    ):
        made.prepare(NUMBERS)
        served.wait_ready()
        assert served.readyz() == (200, {"mongodb": "ok", "change_stream": "polling", "signer": "ok"})
        with holding(served.url, [question(number) for number in NUMBERS], TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            before, began = served.metrics(), time.monotonic()
            wait_until(lambda: time.monotonic() - began > TICKS, "a few ticks")
            # All in one query per tick, however many are held.
            assert served.metrics()[JOBS_READ] - before[JOBS_READ] <= time.monotonic() - began + 1
            made.finish(NUMBERS)
            committed = time.time()
            answers = holds.results()
        assert counted(answers, "status", "generation", "result") == {(200, "finished", "settled"): HOLDS}
        figures.within("from the commit to the last answer", max(a["at"] for a in answers) - committed, 2)
        assert len(served.server.records("change_stream_unsupported")) == 1
        assert not served.server.records("change_stream_down")


def test_standalone_is_not_logged_again_after_its_return(tmp_path: Path, serve: Serve) -> None:
    with (
        running_node(tmp_path / "alone") as node,
        scene(node.uri, "alone") as made,
        serve(node.uri, made.name) as served,
    ):
        made.prepare([1])
        served.wait_ready()
        node.kill()
        wait_until(lambda: served.readyz()[1]["change_stream"] == "down", "it is noticed")
        node.start()
        with holding(served.url, [question(1)], TOKEN) as holds:
            wait_until(lambda: served.readyz()[1]["change_stream"] == "polling", "it is back")
            made.finish([1])
            holds.wait_sent()
            assert counted(holds.results(), "status", "generation") in ({(200, "finished"): 1}, {(503, None): 1})
        assert len(served.server.records("change_stream_unsupported")) == 1


@pytest.mark.parametrize("name", LEFT_OUT)
def test_standalone_leaves_out_existing_tests_only(name: str) -> None:
    assert callable(getattr(test_hold, name))
