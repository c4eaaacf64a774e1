"""Access that is taken away while its requests are held: 401 or 403 within a second, and never a URL."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import counted, holding, question
from tests.support.processes import wait_until
from tests.support.replica_set import running_replica_set
from tests.support.scene import Scene, scene
from tests.support.world import token_hash

HOLDS = scaled(100, 1000)
NUMBERS = range(1, HOLDS + 1)
PATHS = [question(number) for number in NUMBERS]
#: Whose access is taken away, and who keeps theirs.
READER, READER_ID = "reader", 2
CGAC_CODE = "097"
#: Seconds until a login session ends that ends by itself; time for its requests to be held.
SHORT = 6.0

LOGIN_REQUIRED = (401, None, None, "error")
FORBIDDEN = (403, None, None, "error")


@pytest.fixture
def served(on_one: Scene, mongodb_uri: str, serve: Serve) -> Iterator[Served]:
    """A server, and a reader of the agency to which all submissions belong."""
    on_one.prepare(NUMBERS)
    on_one.database["submissions"].update_many({}, {"$set": {"cgac_code": CGAC_CODE}})
    affiliations = [{"cgac_code": CGAC_CODE, "permission": "reader"}]
    on_one.database["users"].insert_one({"_id": READER_ID, "affiliations": affiliations})
    with serve(mongodb_uri, on_one.name) as made:
        made.wait_ready()
        yield made


def delete_the_session(made: Scene) -> None:
    made.log_out(READER)


def let_the_session_end(made: Scene) -> None:
    made.log_in(READER, READER_ID, seconds=-1)


def delete_the_user(made: Scene) -> None:
    made.database["users"].delete_one({"_id": READER_ID})


def strip_the_user(made: Scene) -> None:
    made.database["users"].update_one({"_id": READER_ID}, {"$set": {"affiliations": []}})


def take_the_submissions_away(made: Scene) -> None:
    made.database["submissions"].update_many({}, {"$set": {"cgac_code": "020"}})


@pytest.mark.parametrize("is_finished_then", [False, True], ids=["alone", "and then the job is finished"])
@pytest.mark.parametrize(
    ("revoke", "expected"),
    [
        (delete_the_session, LOGIN_REQUIRED),
        (let_the_session_end, LOGIN_REQUIRED),
        (delete_the_user, LOGIN_REQUIRED),
        (strip_the_user, FORBIDDEN),
        (take_the_submissions_away, FORBIDDEN),
    ],
)
def test_hold_ends_within_a_second_of_lost_access(
    on_one: Scene,
    served: Served,
    figures: Figures,
    revoke: Callable[[Scene], None],
    expected: tuple[object, ...],
    *,
    is_finished_then: bool,
) -> None:
    on_one.log_in(READER, READER_ID)
    with holding(served.url, PATHS, READER) as holds:
        holds.wait_sent()
        served.wait_looked(NUMBERS)
        revoke(on_one)
        committed = time.time()
        if is_finished_then:
            on_one.finish(NUMBERS)
        answers = holds.results()
    assert counted(answers, "status", "generation", "url", "result") == {expected: HOLDS}
    figures.within("from the commit to the last answer", max(a["at"] for a in answers) - committed, 1)


@pytest.mark.parametrize("is_finished_then", [False, True], ids=["alone", "and then the job is finished"])
def test_expired_session_ends_within_a_second(
    on_one: Scene, served: Served, figures: Figures, *, is_finished_then: bool
) -> None:
    on_one.log_in(READER, READER_ID, seconds=SHORT)
    ends = when_it_ends(on_one, READER)
    with holding(served.url, PATHS, READER) as holds:
        holds.wait_sent()
        served.wait_looked(NUMBERS)
        wait_until(lambda: time.time() >= ends, "its end")
        if is_finished_then:
            on_one.finish(NUMBERS)
        answers = holds.results()
    assert counted(answers, "status", "generation", "url", "result") == {LOGIN_REQUIRED: HOLDS}
    assert min(answer["at"] for answer in answers) >= ends - 0.01  # Nobody is told before.
    figures.within("from its end to the last answer", max(a["at"] for a in answers) - ends, 1)


def test_session_removed_by_ttl_ends_within_a_second(tmp_path: Path, serve: Serve, figures: Figures) -> None:
    """MongoDB's own removal comes up to a minute late, here a second. What is measured is from the end by the clock."""
    arguments = ("--setParameter", "ttlMonitorSleepSecs=1")
    with (
        running_replica_set(tmp_path / "mongodb", 1, arguments=arguments) as nodes,
        scene(nodes.uri, "ttl") as made,
        serve(nodes.uri, made.name) as served,
    ):
        made.prepare(NUMBERS)
        served.wait_ready()
        made.database["sessions"].create_index("expires_at", expireAfterSeconds=0)
        made.log_in("owner", seconds=SHORT)
        ends = when_it_ends(made, "owner")
        with holding(served.url, PATHS, "owner") as holds:
            holds.wait_sent()
            served.wait_held(HOLDS)
            answers = holds.results()
        wait_until(lambda: not made.database["sessions"].count_documents({}), "it is removed")
        assert counted(answers, "status", "generation", "url", "result") == {LOGIN_REQUIRED: HOLDS}
        figures.within("from its end to the last answer", max(a["at"] for a in answers) - ends, 1)


def when_it_ends(made: Scene, token: str) -> float:
    session = made.database["sessions"].find_one({"_id": token_hash(token)})
    assert session
    ends: datetime = session["expires_at"]
    return ends.astimezone(UTC).timestamp()


def test_hold_continues_while_others_lose_access(on_one: Scene, served: Served) -> None:
    on_one.log_in(READER, READER_ID)
    with holding(served.url, PATHS, "owner") as kept, holding(served.url, PATHS, READER) as lost:
        kept.wait_sent()
        lost.wait_sent()
        served.wait_held(2 * HOLDS)
        on_one.log_out(READER)
        assert counted(lost.results(), "status") == {(401,): HOLDS}
        assert served.held() == HOLDS
        on_one.finish(NUMBERS)
        assert counted(kept.results(), "status", "generation") == {(200, "finished"): HOLDS}
