"""MongoDB is away, for longer than anybody's patience: holds stay, new requests are told at once, all goes on after."""

import time
from itertools import pairwise

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import counted, holding, question
from tests.support.processes import wait_until
from tests.support.replica_set import ReplicaSet
from tests.support.scene import TOKEN, scene

HOLDS = scaled(100, 1000)
NUMBERS = range(1, HOLDS + 1)
AWAY_SECONDS = scaled(6, 60)
DOWN = {"mongodb": "down", "change_stream": "down", "signer": "ok"}


def test_holds_outlive_mongodb_and_new_requests_fail_at_once(
    set_of_one: ReplicaSet, serve: Serve, figures: Figures
) -> None:
    (node,) = set_of_one.nodes
    with scene(set_of_one.uri, "away") as made, serve(set_of_one.uri, made.name) as served:
        made.prepare(range(1, HOLDS + 2))
        served.wait_ready()
        with holding(served.url, [*map(question, NUMBERS), question(HOLDS + 1, timeout=10)], TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(range(1, HOLDS + 2))
            node.kill()
            began = time.time()
            wait_until(lambda: served.readyz() == (503, DOWN), "it says what is missing")
            assert served.get("/livez")[0] == 200
            figures.within("a request while MongoDB is away", refused(served), 3)
            # The one hold whose deadline comes meanwhile is answered as ever; the others stay.
            wait_until(lambda: served.held() == HOLDS, "the deadline of one")
            wait_until(lambda: time.time() - began > AWAY_SECONDS, "a while", 2 * AWAY_SECONDS)
            assert served.held() == HOLDS
            node.start()
            made.finish(NUMBERS)
            committed = time.time()
            answers = holds.results()
        assert counted(answers, "status", "generation", "result") == {
            (200, "finished", "settled"): HOLDS,
            (200, "waiting", "deadline"): 1,
        }
        figures.within("from its return to the last answer", max(a["at"] for a in answers) - committed, 4)
        served.wait_ready()
        attempts_are_logged_once_each(served)


def refused(served: Served) -> float:
    """How long a new request takes, which is refused."""
    began = time.monotonic()
    status, headers, body = served.check(1)
    assert (status, body) == (503, {"message": "Service temporarily unavailable"})
    assert int(headers["retry-after"]) > 0
    return time.monotonic() - began


def attempts_are_logged_once_each(served: Served) -> None:
    """One line each, further and further apart, up to a limit, and no two alike."""
    records = served.server.records("change_stream_down")
    pauses = [record["next_attempt_seconds"] for record in records]
    assert len(records) <= 2 + AWAY_SECONDS
    assert max(pauses) <= 2
    assert len(set(pauses)) > 1
    times = served.times_of("change_stream_down")
    for pause, (before, after) in zip(pauses, pairwise(times), strict=False):
        assert after - before >= pause - 0.02  # They are written in hundredths.
    assert not served.server.records("change_stream_defect")
    assert not served.server.records("request_defect")


def test_server_starts_while_mongodb_is_away(set_of_one: ReplicaSet, serve: Serve, figures: Figures) -> None:
    (node,) = set_of_one.nodes
    with scene(set_of_one.uri, "away") as made:
        made.prepare([1])
        node.stop()
        with serve(set_of_one.uri, made.name) as served:
            assert served.readyz() == (503, DOWN)
            assert served.get("/livez")[0] == 200
            figures.within("a request while MongoDB was never there", refused(served), 3)
            node.start()
            set_of_one.wait_primary()
            began = time.time()
            served.wait_ready()
            figures.within("from a primary to being ready", time.time() - began, 4)
            with holding(served.url, [question(1)], TOKEN) as holds:
                holds.wait_sent()
                served.wait_held(1)
                made.finish([1])
                assert counted(holds.results(), "status", "generation") == {(200, "finished"): 1}
