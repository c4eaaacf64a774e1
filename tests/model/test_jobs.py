"""What a job document means to callers: `jobs.job_from_document`, held against the table of the contract."""

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from genstatus_server.model.jobs import (
    DEFAULT_FAILURE,
    NO_JOB,
    GenerationStatus,
    Job,
    generation_status,
    job_from_document,
    whole_number,
)

MOMENT = datetime(2024, 2, 29, 12, 30, 59, tzinfo=UTC)
FINISHED: Mapping[str, Any] = {
    "_id": 1234,
    "submission_id": 123,
    "file_type": "D1",
    "status": "finished",
    "upload": {"status": "finished", "bucket": "reports", "key": "123/D1.csv"},
    "size": 10240,
    "start": datetime(2024, 1, 1, tzinfo=UTC),
    "end": datetime(2024, 1, 31, tzinfo=UTC),
    "message": "written for nobody",
    "updated_at": MOMENT,
}

JOB_STATUSES = [None, "ready", "waiting", "running", "finished", "invalid", "failed", "", "FINISHED", "finished "]
UPLOAD_STATUSES = [None, "waiting", "running", "finished", "failed", "ready", "invalid", "", "Failed"]
KEYS = [None, "", "123/D1.csv"]

# The rows of the contract's table. The first that fits counts; what fits none is failed, and makes no sense.
ANY = set(UPLOAD_STATUSES)
TABLE: list[tuple[set[str | None], set[str | None], str]] = [
    ({"ready"}, ANY, "invalid"),
    ({"failed", "invalid"}, ANY, "failed"),
    (set(JOB_STATUSES), {"failed"}, "failed"),
    ({"waiting", "running"}, ANY - {"failed"}, "waiting"),
    ({"finished"}, {None, "waiting", "running"}, "waiting"),
]

# One of each type that BSON has and the field has not.
NO_TEXT: list[Any] = [
    True, 1, 1.5, Int64(1), b"finished", Code("finished"), Regex("finished"), ["finished"], {"$eq": "finished"},
    ObjectId(), Decimal128("1"), MOMENT, DatetimeMS(0), Timestamp(1, 1), MinKey(), MaxKey(),
]  # fmt: skip
NO_WHOLE_NUMBER: list[Any] = [
    True, False, 1.5, float("nan"), float("inf"), float("-inf"), "1", b"1", Code("1"), [1], {"$numberLong": "1"},
    ObjectId(), Decimal128("1"), MOMENT, DatetimeMS(1), Timestamp(1, 1), MinKey(), MaxKey(),
]  # fmt: skip
NO_MOMENT: list[Any] = [
    True, 1, 1.5, "2024-02-29", b"", Code("new Date()"), [MOMENT], {"$date": 0},
    ObjectId(), Decimal128("1"), DatetimeMS(2**60), Timestamp(1, 1), MinKey(), MaxKey(),
]  # fmt: skip
NO_DOCUMENT: list[Any] = [
    True, 1, 1.5, "finished", b"", Code("finished"), [], [{"status": "finished"}],
    ObjectId(), Decimal128("1"), MOMENT, DatetimeMS(0), Timestamp(1, 1), MinKey(), MaxKey(),
]  # fmt: skip
WRONG: Mapping[str, list[Any]] = {
    "_id": NO_WHOLE_NUMBER,
    "submission_id": NO_WHOLE_NUMBER,
    "file_type": NO_TEXT,
    "status": NO_TEXT,
    "upload": NO_DOCUMENT,
    "upload.status": NO_TEXT,
    "upload.bucket": NO_TEXT,
    "upload.key": NO_TEXT,
    "size": NO_WHOLE_NUMBER,
    "start": NO_MOMENT,
    "end": NO_MOMENT,
    "message": NO_TEXT,
    "updated_at": NO_MOMENT,
}


def with_field(document: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """`document` with another value in the field of this name, which may be one of `upload`."""
    outer, _, inner = name.partition(".")
    upload = document.get(outer)
    return {**document, outer: {**(upload if isinstance(upload, dict) else {}), inner: value} if inner else value}


def status_of(job_status: str | None, upload_status: str | None, key: str | None) -> str | None:
    if (job_status, upload_status) == ("finished", "finished") and key:
        return "finished"
    return next((status for jobs, uploads, status in TABLE if job_status in jobs and upload_status in uploads), None)


def test_job_without_a_document_is_invalid() -> None:
    assert job_from_document(None) is NO_JOB
    assert Job(job_id=None, generation_status=GenerationStatus.INVALID) == NO_JOB
    assert NO_JOB.is_settled


@pytest.mark.parametrize("job_status", JOB_STATUSES)
def test_job_has_the_status_of_the_table(job_status: str | None) -> None:
    for upload_status, key in itertools.product(UPLOAD_STATUSES, KEYS):
        expected = status_of(job_status, upload_status, key)
        assert generation_status(job_status, upload_status, has_key=bool(key)) == expected
        job = job_from_document({"_id": 1, "status": job_status, "upload": {"status": upload_status, "key": key}})
        assert job.generation_status == (expected or "failed"), (job_status, upload_status, key)
        assert bool(job.problems) is (expected is None)
        assert job.is_settled is (job.generation_status != "waiting")


@pytest.mark.parametrize("upload", [{}, {"upload": None}, {"upload": {}}, {"upload": {"status": None}}])
@pytest.mark.parametrize(
    ("job_status", "expected"),
    [("ready", "invalid"), ("waiting", "waiting"), ("running", "waiting"), ("finished", "waiting"),
     ("invalid", "failed"), ("failed", "failed"), ("done", "failed")],
)  # fmt: skip
def test_job_without_an_upload_has_a_status(upload: Mapping[str, Any], job_status: str, expected: str) -> None:
    assert job_from_document({"_id": 1, "status": job_status, **upload}).generation_status == expected


def test_job_of_an_empty_document_is_failed() -> None:
    job = job_from_document({})
    assert (job.generation_status, job.message, job.job_id) == ("failed", DEFAULT_FAILURE, None)
    assert job.problems


def test_finished_job_has_every_field() -> None:
    assert job_from_document(FINISHED) == Job(
        job_id=1234,
        generation_status=GenerationStatus.FINISHED,
        job_status="finished",
        upload_status="finished",
        bucket="reports",
        key="123/D1.csv",
        size=10240,
        start=FINISHED["start"],
        end=FINISHED["end"],
        message="",
        updated_at=MOMENT,
        problems=(),
    )


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("status", "upload", "upload.status")])
def test_job_takes_null_for_absent(name: str) -> None:
    job = job_from_document(with_field(FINISHED, name, None))
    assert job.generation_status == ("failed" if name in ("_id", "upload.key") else "finished")


def test_job_with_null_as_its_id_is_failed() -> None:
    assert job_from_document({**FINISHED, "_id": None}).problems == ("_id is null",)
    assert job_from_document({name: value for name, value in FINISHED.items() if name != "_id"}).problems == ()


def test_job_ignores_unknown_fields() -> None:
    extra = with_field({**FINISHED, "worker": {"host": 1}}, "upload.etag", [1])
    assert job_from_document(extra) == job_from_document(FINISHED)


@pytest.mark.parametrize("number", [7, 7.0, Int64(7)])
def test_job_takes_a_whole_double_for_an_integer(number: float) -> None:
    job = job_from_document({**FINISHED, "_id": number, "submission_id": number, "size": number})
    assert (job.job_id, job.size, job.problems) == (7, 7, ())
    assert type(job.job_id) is type(job.size) is int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-(2.0**63), -(2**63)),
        (-(2.0**63) - 2048, None),
        (2.0**63 - 1024, 2**63 - 1024),
        (2.0**63, None),
        (7.5, None),
        (float("inf"), None),
        (float("nan"), None),
        (127.0, 127),
        (True, None),
        ("7", None),
    ],
)
def test_whole_number_takes_what_fits_into_64_bits(value: object, expected: int | None) -> None:
    assert whole_number(value) == expected


def test_jobs_of_different_files_differ_in_their_hash() -> None:
    assert len({hash(job_from_document({**FINISHED, "_id": number})) for number in range(100)}) > 90


@pytest.mark.parametrize("size", [0, 0.0, -0.0, 2**62])
def test_job_accepts_every_size_from_zero(size: float) -> None:
    job = job_from_document({**FINISHED, "size": size})
    assert (job.size, job.problems) == (size, ())


@pytest.mark.parametrize("size", [-1, -1.0, -(2**63)])
def test_job_reports_a_negative_size(size: float) -> None:
    job = job_from_document({**FINISHED, "size": size})
    assert (job.generation_status, job.size, job.problems) == ("failed", None, ("size is negative",))


@pytest.mark.parametrize(
    "bucket",
    [
        "reports",
        "Old_Name.of-a-bucket",
        "reports-abcdef-s3alias",
        "arn:aws:s3:us-west-2:123456789012:accesspoint/reports",
        "arn:aws-us-gov:s3:us-gov-west-1:123456789012:accesspoint:reports",
        "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/reports",
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01234567890123456/accesspoint/reports",
    ],
)
def test_bucket_may_be_a_name_or_an_access_point(bucket: str) -> None:
    job = job_from_document(with_field(FINISHED, "upload.bucket", bucket))
    assert (job.generation_status, job.bucket, job.problems) == ("finished", bucket, ())


@pytest.mark.parametrize(
    "bucket",
    [
        "ab", "no spaces", "reports/", "reports\n", "berichte-ü", "b" * 256, "reports--use1-az4--x-s3",
        "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "arn:aws:sqs:us-west-2:123456789012:reports",
        "arn:aws:s3:::reports", "arn:aws:s3:us-west-2:123456789012:accesspoint/reports/key",
    ],
)  # fmt: skip
def test_bucket_that_cannot_be_signed_for_is_a_problem(bucket: str) -> None:
    job = job_from_document(with_field(FINISHED, "upload.bucket", bucket))
    assert (job.generation_status, job.problems) == ("failed", ("upload.bucket is no bucket that can be signed for",))


@pytest.mark.parametrize("bucket", ["", None])
def test_job_without_a_bucket_has_none(bucket: str | None) -> None:
    job = job_from_document(with_field(FINISHED, "upload.bucket", bucket))
    assert (job.generation_status, job.bucket) == ("finished", None)


@pytest.mark.parametrize("name", WRONG)
def test_job_with_a_wrong_type_is_failed(name: str) -> None:
    for value in WRONG[name]:
        job = job_from_document(with_field(FINISHED, name, value))
        assert job.generation_status == "failed", value
        assert any(problem.startswith(f"{name} is ") for problem in job.problems), (value, job.problems)
        assert job.message
        hash(job)  # The signer remembers URLs by their job.


@pytest.mark.parametrize("name", ["upload.status", "upload.bucket", "size", "message", "updated_at"])
@pytest.mark.parametrize("job_status", ["ready", "waiting", "running"])
def test_job_with_a_wrong_type_is_failed_in_any_status(name: str, job_status: str) -> None:
    job = job_from_document(with_field({**FINISHED, "status": job_status}, name, [None]))
    assert job.generation_status == "failed"


def test_job_reports_every_problem() -> None:
    job = job_from_document({"_id": "1", "status": 5, "upload": {"key": 5}, "size": -1})
    assert job.problems == (
        "_id is not a whole number",
        "status is of type int",
        "upload.key is of type int",
        "size is negative",
        "no meaning in status None, upload.status None",
    )


def test_job_reports_a_problem_shortly() -> None:
    job = job_from_document({"_id": 1, "status": "x" * 10_000})
    assert max(map(len, job.problems)) < 200


@pytest.mark.parametrize("message", [None, "", " \t\n", "\N{NO-BREAK SPACE}"])
@pytest.mark.parametrize("job_status", ["failed", "invalid"])
def test_failed_job_gets_a_default_message(job_status: str, message: str | None) -> None:
    job = job_from_document({"_id": 1, "status": job_status, "message": message})
    assert (job.message, job.problems) == (DEFAULT_FAILURE, ())


def test_failed_job_keeps_its_message() -> None:
    job = job_from_document({"_id": 1, "status": "failed", "message": " No rows for March.\n"})
    assert job.message == "No rows for March."


@pytest.mark.parametrize("job_status", ["ready", "waiting", "running", "finished"])
def test_job_has_a_message_only_if_it_failed(job_status: str) -> None:
    assert job_from_document({**FINISHED, "status": job_status}).message == ""


@pytest.mark.parametrize("year", [1, 999, 1969, 9999])
def test_job_keeps_any_year(year: int) -> None:
    moment = datetime(year, 12, 31, tzinfo=UTC)
    job = job_from_document({**FINISHED, "start": moment, "end": moment, "updated_at": moment})
    assert (job.start, job.end, job.updated_at, job.problems) == (moment, moment, moment, ())


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["finished", "waiting", "failed", "ready"])
    | st.binary(max_size=5)
    | st.datetimes(timezones=st.just(UTC))
    | st.builds(DatetimeMS, st.integers(-(2**63), 2**63 - 1))
    | st.sampled_from([Decimal128("NaN"), ObjectId(), Code("x"), Code("x", {}), Regex("x"), Timestamp(0, 0), MinKey()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
UPLOADS = st.fixed_dictionaries({}, optional=dict.fromkeys(["status", "bucket", "key"], VALUES))
DOCUMENTS = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys([name for name in WRONG if "." not in name], VALUES), "upload": UPLOADS | VALUES}
)


@given(DOCUMENTS)
def test_job_can_be_made_of_any_document(document: dict[str, Any]) -> None:
    job = job_from_document(document)
    failed, finished = job.generation_status == "failed", job.generation_status == "finished"
    assert bool(job.message) is failed
    assert failed or not job.problems
    assert job.key or not finished
    assert {type(job.job_id), type(job.size)} <= {int, type(None)}
    hash(job)


@given(DOCUMENTS, st.sampled_from(sorted(WRONG)), st.data())
def test_job_with_a_wrong_type_is_never_finished(document: dict[str, Any], name: str, data: st.DataObject) -> None:
    job = job_from_document(with_field(document, name, data.draw(st.sampled_from(WRONG[name]))))
    assert job.generation_status == "failed"
    assert any(problem.startswith(f"{name} is ") for problem in job.problems)
