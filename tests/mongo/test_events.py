"""What an event of the change stream concerns, and what an update makes of a document."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from genstatus_server.model.jobs import job_from_document
from genstatus_server.mongo.events import apply_update, changed_fields, changes_key, cluster_time, key_of
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS, Key
from tests.support.scripted import HASH, JOB, JOB_KEY, event, update

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UPLOAD: dict[str, Any] = {**JOB, "upload": {"status": "running", "parts": {"0": "a"}, "list": [1, 2]}}


def truncated(*fields: str) -> dict[str, Any]:
    arrays = [{"field": field, "newSize": 1} for field in fields]
    return {"operationType": "update", "updateDescription": {"truncatedArrays": arrays}}


def test_cluster_time_orders_as_mongodb_does() -> None:
    times = [Timestamp(0, 0), Timestamp(1, 0xFFFFFFFF), Timestamp(2, 1), Timestamp(2, 2), Timestamp(0xFFFFFFFF, 0)]
    numbers = [cluster_time(each) for each in times]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert cluster_time(Timestamp(1, 2)) == 2**32 + 2


def test_changed_fields_are_the_top_level_names() -> None:
    assert changed_fields(update(1, {"a.b.c": 1, "d": 2}, ["e.f", "g"])) == {"a", "d", "e", "g"}
    assert changed_fields(truncated("h.0", "i")) == {"h", "i"}
    nameless = {"operationType": "update", "updateDescription": {"truncatedArrays": [{"newSize": 1}]}}
    assert changed_fields(nameless) == {""}
    assert changed_fields(event("delete", JOBS, 1, 1)) == set()


@pytest.mark.parametrize(
    ("event_of_it", "expected"),
    [
        (update(1, {"submission_id": 2}), True),
        (update(1, {"file_type": "E"}), True),
        (update(1, {"submission_id.x": 2}), True),
        (update(1, {}, ["file_type"]), True),
        (truncated("file_type"), True),
        (update(1, {"status": "failed"}, ["message"]), False),
        (event("replace", JOBS, 1, 1, fullDocument=JOB), False),
    ],
)
def test_event_changes_the_key_of_a_job(event_of_it: Mapping[str, Any], *, expected: bool) -> None:
    assert changes_key(event_of_it) is expected


@pytest.mark.parametrize(
    ("event_of_it", "expected"),
    [
        (event("insert", JOBS, 100, 1, fullDocument=JOB), JOB_KEY),
        (event("insert", JOBS, 100, 1, fullDocument={**JOB, "submission_id": 1.0}), JOB_KEY),
        (event("insert", JOBS, 100, 1, fullDocument={**JOB, "submission_id": Decimal128("1")}), None),
        (event("insert", JOBS, 100, 1, fullDocument={**JOB, "file_type": ["D1"]}), None),
        (event("delete", JOBS, 100, 1), None),
        (event("delete", SESSIONS, HASH, 1), (SESSIONS, HASH)),
        (event("delete", USERS, 11.0, 1), (USERS, 11)),
        (event("delete", USERS, Decimal128("11"), 1), None),
        (event("delete", SUBMISSIONS, {"a": 1}, 1), None),
        (event("delete", SUBMISSIONS, [1], 1), None),
    ],
)
def test_event_names_the_key_of_its_document(event_of_it: Mapping[str, Any], expected: Key | None) -> None:
    assert key_of(event_of_it) == expected


@pytest.mark.parametrize(
    ("updated", "removed", "expected"),
    [
        ({"status": "failed"}, [], {**UPLOAD, "status": "failed"}),
        ({"other": 1, "other.0": 2}, ["another"], UPLOAD),
        ({"upload.status": "finished"}, [], {**UPLOAD, "upload": {**UPLOAD["upload"], "status": "finished"}}),
        ({"upload.new.x": 1}, [], None),  # It may be more than is known here.
        ({"upload.parts.0": "b"}, [], None),  # A number may be a position.
        ({"upload.list.0": 5}, [], None),
        ({"message.x": 5}, [], None),
        ({}, ["upload"], {key: value for key, value in UPLOAD.items() if key != "upload"}),
        ({}, ["upload.list"], {**UPLOAD, "upload": {"status": "running", "parts": {"0": "a"}}}),
        ({}, ["upload.parts.0"], None),
        ({}, ["message"], UPLOAD),
        ({"upload": None}, [], {**UPLOAD, "upload": None}),
    ],
)
def test_update_is_applied_or_uncertain(
    updated: Mapping[str, Any], removed: Sequence[str], expected: Mapping[str, Any] | None
) -> None:
    before = repr(UPLOAD)
    assert apply_update(JOBS, UPLOAD, update(1, updated, removed)) == expected
    assert repr(UPLOAD) == before


@pytest.mark.parametrize(("field", "is_certain"), [("upload", False), ("upload.list", False), ("other", True)])
def test_update_that_truncates_an_array_is_uncertain(field: str, *, is_certain: bool) -> None:
    assert apply_update(JOBS, UPLOAD, truncated(field)) == (UPLOAD if is_certain else None)


UPDATES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["waiting", "running", "finished", "failed"]),
        "upload": st.none()
        | st.fixed_dictionaries(
            {}, optional={"status": st.sampled_from(["running", "finished"]), "key": st.sampled_from(["1/D1.csv", ""])}
        ),
        "size": st.none() | st.integers(0, 10),
        "start": st.none() | st.just(MOMENT),
        "message": st.sampled_from(["", "No rows."]),
        "updated_at": st.just(MOMENT),
    },
)


@given(before=UPDATES, updated=UPDATES)
def test_apply_update_gives_the_job_of_the_updated_document(
    before: dict[str, object], updated: dict[str, object]
) -> None:
    document = {"_id": 1, "status": "waiting"} | before
    applied = apply_update(JOBS, document, update(1, updated))
    assert applied == document | updated
    assert job_from_document(applied) == job_from_document(document | updated)
