"""The primary goes, by every means, while a thousand requests are held: each is answered, and with the right answer."""

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from pymongo.errors import AutoReconnect

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.support.holds import Answer, counted, holding, question
from tests.support.replica_set import Node, ReplicaSet
from tests.support.scene import TOKEN, Scene

HOLDS = scaled(300, 1000)
NUMBERS = range(1, HOLDS + 1)
PATHS = [question(number) for number in NUMBERS]


def kill(_: ReplicaSet, primary: Node) -> None:
    primary.kill()


def step_down(replica_set: ReplicaSet, primary: Node) -> None:
    with suppress(AutoReconnect):
        replica_set.command(primary, "replSetStepDown", 30)


def terminate(_: ReplicaSet, primary: Node) -> None:
    primary.signal(signal.SIGTERM)


def all_are_right(answers: Sequence[Answer]) -> None:
    """Each was told the result of the job that it had asked for, and of no other."""
    assert counted(answers, "status", "generation", "result") == {(200, "finished", "settled"): HOLDS}
    for answer in answers:
        assert f"submission_id={answer['job_id']}&" in answer["path"]
        assert f"/{answer['job_id']}/D1.csv?" in answer["url"]


# The trap in `terminate`: the driver asks the server that was shut down for the rest of the stream until it gives up.
@pytest.mark.parametrize(("fault", "promised"), [(kill, 4), (step_down, 4), (terminate, 4)])
def test_holds_outlive_the_loss_of_the_primary(
    replica_set: ReplicaSet,
    on_the_set: Scene,
    serve: Serve,
    figures: Figures,
    fault: Callable[[ReplicaSet, Node], None],
    promised: float,
) -> None:
    on_the_set.prepare(NUMBERS)
    with serve(replica_set.uri, on_the_set.name) as served:
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            primary = replica_set.wait_primary()
            began = time.time()
            fault(replica_set, primary)
            on_the_set.finish(NUMBERS)  # As soon as there is a new primary, with the server still reconnecting.
            committed = time.time()
            answers = holds.results()
        all_are_right(answers)
        last = max(answer["at"] for answer in answers)
        figures.note("s, from the fault to the commit on the new primary", f"{committed - began:.2f}")
        figures.within("from the fault to the last of the answers", last - began, promised)
        reopened = max([committed, *(at for at in served.times_of_reopening() if at < last)])
        figures.within("from the commit and the stream's reopening to the last of the answers", last - reopened, 2)


def test_holds_outlive_a_rolling_restart_of_mongodb(
    replica_set: ReplicaSet, on_the_set: Scene, serve: Serve, figures: Figures
) -> None:
    on_the_set.prepare(NUMBERS)
    with serve(replica_set.uri, on_the_set.name) as served:
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            # The primary last, as the manual has it. Some jobs are finished while each node is away.
            primary = replica_set.wait_primary()
            nodes = sorted(replica_set.nodes, key=lambda node: node is primary)
            for part, node in enumerate(nodes):
                node.signal(signal.SIGTERM)
                on_the_set.finish(NUMBERS[part :: len(nodes)])
                node.wait_ended()
                node.start()
                replica_set.wait_whole()
            finished = time.time()
            answers = holds.results()
        all_are_right(answers)
        figures.within("from the restart's end to the last answer", max(0, *(a["at"] for a in answers)) - finished, 2)
        assert served.readyz()[0] == 200
