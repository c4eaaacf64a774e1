"""The snapshot query, and what a document means: a value, or absent with a warning."""

from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from genstatus_server.model.access import LoginSession, Submission
from genstatus_server.model.jobs import GenerationStatus
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS, Key, parse, snapshot_query
from tests.support.scripted import HASH, JOB, JOB_KEY, SESSION, SESSION_KEY, SUBMISSION, SUBMISSION_KEY, USER, USER_KEY

JOB_FIELDS = ("submission_id", "file_type", "status", "upload", "size", "start", "end", "message", "updated_at")


@pytest.fixture(autouse=True)
def records() -> Any:
    with structlog.testing.capture_logs() as captured:
        yield captured


def project(collection: str, *names: str) -> dict[str, Any]:
    return {"$project": {**dict.fromkeys(names, 1), "_collection": {"$literal": collection}}}


def test_snapshot_query_of_jobs_names_each_submission_and_file_type_once() -> None:
    keys = [(JOBS, (2, "D1")), (JOBS, (1, "E")), (JOBS, (1, "D1"))]
    match = {"submission_id": {"$in": [1, 2]}, "file_type": {"$in": ["D1", "E"]}}
    assert snapshot_query(keys) == (JOBS, [{"$match": match}, project(JOBS, *JOB_FIELDS)])


def test_snapshot_query_brings_the_user_of_a_session() -> None:
    user = {
        "from": USERS,
        "localField": "user_id",
        "foreignField": "_id",
        "pipeline": [{"$project": {"website_admin": 1, "affiliations": 1}}],
        "as": "_user",
    }
    session = [
        {"$match": {"_id": {"$in": [HASH]}}},
        project(SESSIONS, "user_id", "expires_at"),
        {"$lookup": user},
    ]
    assert snapshot_query([SESSION_KEY]) == (SESSIONS, session)


def test_snapshot_query_reads_all_collections_at_once() -> None:
    collection, pipeline = snapshot_query([SUBMISSION_KEY, USER_KEY, (SUBMISSIONS, 2)])
    submissions = [
        {"$match": {"_id": {"$in": [1, 2]}}},
        project(SUBMISSIONS, "user_id", "cgac_code", "frec_code"),
    ]
    users = [{"$match": {"_id": {"$in": [11]}}}, project(USERS, "website_admin", "affiliations")]
    assert (collection, pipeline) == (SUBMISSIONS, [*submissions, {"$unionWith": {"coll": USERS, "pipeline": users}}])


@pytest.mark.parametrize(
    ("key", "document"), [(JOB_KEY, JOB), (SESSION_KEY, SESSION), (SUBMISSION_KEY, SUBMISSION), (USER_KEY, USER)]
)
def test_parse_gives_a_value_without_a_warning(records: list[Any], key: Key, document: Any) -> None:
    assert parse(key, document) is not None
    parse(key, None)
    assert not records


def test_parse_of_no_document_is_absent() -> None:
    assert parse(JOB_KEY, None).generation_status is GenerationStatus.INVALID
    assert [parse(key, None) for key in (SESSION_KEY, SUBMISSION_KEY, USER_KEY)] == [None] * 3


def test_parse_warns_of_a_malformed_job(records: list[Any]) -> None:
    job = parse(JOB_KEY, {**JOB, "size": "large"})
    warning = {"event": "job_malformed", "log_level": "warning", "submission_id": 1, "file_type": "D1"}
    assert records == [{**warning, "problems": job.problems}]
    assert len(job.problems) == 1


def test_parse_warns_of_a_document_without_a_required_field(records: list[Any]) -> None:
    assert parse(SESSION_KEY, {"_id": HASH, "user_id": 11}) is None
    warning = {"event": "document_malformed", "log_level": "warning", "collection": SESSIONS}
    assert records == [{**warning, "cause": "a field that is needed makes no sense"}]


class Broken(dict[str, Any]):
    """A document that raises where it is read."""

    def get(self, *_: object) -> Any:
        raise ValueError("broken")


def test_parse_treats_a_document_that_raises_as_absent(records: list[Any]) -> None:
    assert parse(JOB_KEY, Broken()).generation_status is GenerationStatus.INVALID
    assert parse(SUBMISSION_KEY, Broken()) is None
    warning = {"event": "document_malformed", "log_level": "warning", "cause": "ValueError: broken"}
    assert records == [{**warning, "collection": JOBS}, {**warning, "collection": SUBMISSIONS}]


def test_parse_keeps_the_fields_of_access_documents() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert parse(SESSION_KEY, {"_id": HASH, "user_id": 11.0, "expires_at": moment}) == LoginSession(11, moment)
    document = {"_id": 1, "user_id": 11, "cgac_code": "097", "frec_code": "1601"}
    assert parse(SUBMISSION_KEY, document) == Submission(11, "097", "1601")
