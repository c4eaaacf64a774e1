"""What the change stream stood on is gone: the oplog has moved on, or a collection or the database was dropped."""

import signal
import time
from collections.abc import Callable

import pytest
from pymongo import WriteConcern

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.support.holds import counted, holding, question
from tests.support.processes import wait_until
from tests.support.replica_set import ReplicaSet
from tests.support.scene import TOKEN, Scene, scene

HOLDS = scaled(100, 1000)
NUMBERS = range(1, HOLDS + 1)
PATHS = [question(number) for number in NUMBERS]
MEGABYTE = b"x" * 1_000_000

FINISHED = (200, "finished", "settled")
INVALID = (200, "invalid", "settled")
LOGIN_REQUIRED = (401, None, "error")
NO_SUCH_SUBMISSION = (400, None, "error")


def test_holds_outlive_the_loss_of_the_oplog_history(set_of_one: ReplicaSet, serve: Serve, figures: Figures) -> None:
    with scene(set_of_one.uri, "history") as made, serve(set_of_one.uri, made.name) as served:
        made.prepare(NUMBERS)
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            served.server.process.send_signal(signal.SIGSTOP)  # As a machine does that is moved elsewhere.
            stopped = newest_in_the_oplog(made)
            made.finish(NUMBERS)
            overwrite_the_oplog(made, stopped)
            served.server.process.send_signal(signal.SIGCONT)
            answers = holds.results()
        assert counted(answers, "status", "generation", "result") == {FINISHED: HOLDS}

        def is_loss_logged() -> bool:  # A slow machine may break the connection, too, before the server asks again.
            return any("OperationFailure" in record["cause"] for record in served.server.records("change_stream_down"))

        wait_until(is_loss_logged, "the loss is logged")
        wait_until(lambda: len(served.times_of("change_stream_open")) == 2, "reopened")
        assert not served.server.records("change_stream_open")[1]["resumed"]
        reopened = served.times_of("change_stream_open")[1]
        figures.within("from the reopening to the last answer", max(a["at"] for a in answers) - reopened, 2)


def newest_in_the_oplog(made: Scene) -> object:
    (entry,) = made.client["local"]["oplog.rs"].find().sort("$natural", -1).limit(1)
    return entry["ts"]


def overwrite_the_oplog(made: Scene, until: object) -> None:
    """Write until the oplog, which has 64 MB, has lost everything before."""
    filler = made.client.get_database("filler", write_concern=WriteConcern(1))["filler"]
    oplog = made.client["local"]["oplog.rs"]

    def is_overwritten() -> bool:
        filler.insert_many([{"x": MEGABYTE} for _ in range(10)])
        filler.drop()
        (oldest,) = oplog.find().sort("$natural", 1).limit(1)
        return bool(oldest["ts"] > until)

    wait_until(is_overwritten, "the oplog has moved on", 120)


def drop_the_jobs(made: Scene) -> None:
    made.database["jobs"].drop()


def rename_the_jobs(made: Scene) -> None:
    made.database["jobs"].rename("former_jobs")


def replace_the_jobs(made: Scene) -> None:
    copy = [{"$merge": "new_jobs"}]
    made.database["jobs"].aggregate(copy)
    upload = {"status": "finished", "key": "1/D1.csv"}
    made.database["new_jobs"].update_many({}, {"$set": {"status": "finished", "upload": upload}})
    made.database["new_jobs"].rename("jobs", dropTarget=True)


def drop_the_sessions(made: Scene) -> None:
    made.database["sessions"].drop()


def drop_the_database(made: Scene) -> None:
    made.client.drop_database(made.name)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (drop_the_jobs, {INVALID}),
        (rename_the_jobs, {INVALID}),
        (replace_the_jobs, {FINISHED}),
        (drop_the_sessions, {LOGIN_REQUIRED}),
        # Its collections go one after the other.
        (drop_the_database, {LOGIN_REQUIRED, NO_SUCH_SUBMISSION}),
    ],
)
def test_dropped_collection_ends_its_holds_and_a_new_one_is_followed(
    on_one: Scene,
    mongodb_uri: str,
    serve: Serve,
    figures: Figures,
    fault: Callable[[Scene], None],
    expected: set[tuple[int, str | None, str]],
) -> None:
    on_one.prepare(NUMBERS)
    with serve(mongodb_uri, on_one.name) as served:
        served.wait_ready()
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            began = time.time()
            fault(on_one)
            answers = holds.results()
        assert counted(answers, "status", "generation", "result").keys() <= expected
        assert len(answers) == HOLDS
        figures.within("from the fault to the last answer", max(a["at"] for a in answers) - began, 2)
        on_one.client.drop_database(on_one.name)
        on_one.prepare(NUMBERS)
        wait_until(lambda: served.check(1)[0] == 200, "what is there again is seen")
        with holding(served.url, PATHS, TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            on_one.finish(NUMBERS)
            assert counted(holds.results(), "status", "generation", "result") == {FINISHED: HOLDS}
        assert not served.server.records("change_stream_defect")
