"""Connections that are open and deliver nothing: noticed, opened anew, and meanwhile every held job is looked at."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import WriteConcern

from tests.faults.conftest import QUIET_TIME, Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import Holds, counted, holding, question
from tests.support.processes import wait_until
from tests.support.replica_set import Node, ReplicaSet, running_replica_set
from tests.support.scene import TOKEN, Scene, scene
from tests.support.valve import Valve, running_valve

HOLDS = scaled(100, 1000)
NUMBERS = range(1, HOLDS + 1)
PATHS = [question(number) for number in NUMBERS]
FINISHED = {(200, "finished", "settled"): HOLDS}
JOBS_READ = 'genstatus_mongodb_reads_total{collection="jobs"}'


@pytest.fixture
def valve(set_of_one: ReplicaSet) -> Iterator[Valve]:
    with running_valve(set_of_one.nodes[0]) as made:
        yield made


@pytest.fixture
def behind(set_of_one: ReplicaSet) -> Iterator[Scene]:
    """A scene that is written to past the valve."""
    with scene(set_of_one.uri, "silence") as made:
        made.prepare(range(1, HOLDS + 2))
        yield made


def test_change_stream_silence_delays_answers_by_a_few_seconds(
    behind: Scene, valve: Valve, serve: Serve, figures: Figures
) -> None:
    with serve(valve.uri, behind.name) as served:
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            assert served.check(HOLDS + 1)[2]["status"] == "waiting"
            valve.is_shut_for_streams = True
            before = served.metrics()[JOBS_READ]
            began = time.time()
            behind.finish([HOLDS + 1])
            wait_until(lambda: served.check(HOLDS + 1)[2]["status"] == "finished", "what is remembered is not trusted")
            figures.within("until what is remembered is not trusted any more", time.time() - began, 2)
            behind.finish(NUMBERS)
            committed = time.time()
            answers = holds.results()
            # A look at everything, a look by those that it woke, and one more before the answers leave.
            reads = served.metrics()[JOBS_READ] - before
        assert counted(answers, "status", "generation", "result") == FINISHED
        figures.within("from the commit to the last answer", max(a["at"] for a in answers) - committed, 10)
        figures.note("queries for jobs in that time", reads)
        assert reads < HOLDS / 2
        wait_until(lambda: served.readyz()[1]["change_stream"] == "down", "it says so")
        # With nothing else to tell: looks at everything held go on, not further apart than promised.
        with holding(served.url, [question(HOLDS + 1)], TOKEN) as holds:
            behind.set_jobs([HOLDS + 1], status="waiting", upload=None)
            holds.wait_sent()
            served.wait_looked([HOLDS + 1])
            behind.finish([HOLDS + 1])
            committed = time.time()
            (answer,) = holds.results()
            assert answer["generation"] == "finished"
            figures.within("from a commit in the midst of it to the answer", answer["at"] - committed, 10)
        valve.is_shut_for_streams = False
        began = time.time()
        wait_until(lambda: served.readyz()[1]["change_stream"] == "live", "it is open again")
        figures.within("from the network's recovery to the stream's", time.time() - began, 10)


def test_holds_outlive_a_network_that_drops_everything(
    behind: Scene, valve: Valve, serve: Serve, figures: Figures
) -> None:
    with serve(valve.uri, behind.name) as served:
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            valve.is_shut = True
            wait_until(lambda: served.readyz()[0] == 503, "it is not ready")
            began = time.time()
            assert served.check(1)[0] == 503
            figures.within("a request into the silence", time.time() - began, 3)
            behind.finish(NUMBERS)
            assert served.held() == HOLDS
            valve.is_shut = False
            opened = time.time()
            answers = holds.results()
        assert counted(answers, "status", "generation", "result") == FINISHED
        figures.within("from the network's recovery to the last answer", max(a["at"] for a in answers) - opened, 10)


def test_short_hold_on_a_silent_mongodb_is_503_in_time(
    behind: Scene, valve: Valve, serve: Serve, figures: Figures
) -> None:
    with serve(valve.uri, behind.name) as served:
        served.wait_ready()
        valve.is_shut = True
        wait_until(lambda: served.readyz()[0] == 503, "it is not ready")
        began = time.time()
        status, headers, _ = served.get(question(1, timeout=0.25), TOKEN)
        assert (status, headers["x-wait-result"]) == (503, "error")
        figures.within("a hold of a quarter of a second into the silence", time.time() - began, 0.5)


def test_holds_outlive_a_frozen_primary(
    replica_set: ReplicaSet, on_the_set: Scene, serve: Serve, figures: Figures
) -> None:
    on_the_set.prepare(NUMBERS)
    with serve(replica_set.uri, on_the_set.name) as served:
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            primary = replica_set.wait_primary()
            primary.signal(signal.SIGSTOP)
            try:
                began = time.time()
                finish_on(replica_set, on_the_set)
                committed = time.time()
                answers = holds.results()
            finally:
                primary.signal(signal.SIGCONT)
        assert counted(answers, "status", "generation", "result") == FINISHED
        figures.note("s, from the freeze to the commit on the new primary", f"{committed - began:.2f}")
        figures.within("from that commit to the last answer", max(a["at"] for a in answers) - committed, 10)


def finish_on(replica_set: ReplicaSet, made: Scene) -> None:
    """Finish all on the new primary, with a client that has never known the old one."""
    replica_set.wait_primary()
    with scene(replica_set.uri, "unused", socketTimeoutMS=2000) as fresh:
        Scene(fresh.client, made.name).finish(NUMBERS)


@pytest.fixture
def arbitrated(tmp_path: Path) -> Iterator[ReplicaSet]:
    """Two nodes and an arbiter: with it, a primary stays one that has no majority for its writes."""
    with running_replica_set(tmp_path / "arbiter", arbiters=1, arguments=QUIET_TIME) as nodes:
        yield nodes


def kill_secondary(nodes: ReplicaSet) -> Node:
    primary = nodes.wait_primary()
    secondary = next(node for node in nodes.nodes[:2] if node is not primary)
    secondary.kill()
    return secondary


def finish_without_a_majority(made: Scene) -> None:
    Scene(made.client, made.name, majority=False).finish(NUMBERS)
    witness = made.client.get_database(made.name, write_concern=WriteConcern(1))["jobs"]
    assert witness.count_documents({"status": "finished"}) == HOLDS


def told_once_a_majority_has_it(served: Served, holds: Holds, secondary: Node, figures: Figures) -> None:
    wait_until(lambda: served.check(1)[0] == 200, "it can be read")
    assert served.check(1)[2]["status"] == "waiting"  # It may be rolled back.
    assert served.held() == HOLDS
    secondary.start()
    began = time.time()
    answers = holds.results()
    assert counted(answers, "status", "generation", "result") == FINISHED
    figures.within("from the majority's return to the last answer", max(a["at"] for a in answers) - began, 10)


def test_write_without_a_majority_is_not_answered(arbitrated: ReplicaSet, serve: Serve, figures: Figures) -> None:
    with scene(arbitrated.uri, "arbiter") as made, serve(arbitrated.uri, made.name) as served:
        made.prepare(NUMBERS)
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            secondary = kill_secondary(arbitrated)
            finish_without_a_majority(made)
            told_once_a_majority_has_it(served, holds, secondary, figures)


def test_write_that_reaches_a_majority_after_the_stream_opened_is_answered(
    arbitrated: ReplicaSet, serve: Serve, figures: Figures
) -> None:
    """The trap after an election: MongoDB begins a stream at the primary's last write, which reads do not see yet."""
    with scene(arbitrated.uri, "arbiter") as made:
        made.prepare(NUMBERS)
        secondary = kill_secondary(arbitrated)
        finish_without_a_majority(made)
        with serve(arbitrated.uri, made.name) as served:
            served.wait_ready()
            with holding(served.url, PATHS, TOKEN) as holds:
                holds.wait_sent()
                served.wait_looked(NUMBERS)
                told_once_a_majority_has_it(served, holds, secondary, figures)
