"""What the validators of `init-db` refuse, written by hand, one kind of nonsense at a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from pymongo.errors import DuplicateKeyError, WriteError

pytestmark = pytest.mark.one_python

Document = dict[str, Any]
Database = pymongo.database.Database[Document]

NOW = datetime.now(UTC)
LEASE: Document = {"token": "0123", "owner": "host:1", "expires_at": NOW + timedelta(minutes=1)}
FILE: Document = {"status": "finished", "bucket": "reports", "key": "1/D1.csv"}

WAITING: Document = {
    "_id": 1,
    "submission_id": 1,
    "file_type": "D1",
    "status": "waiting",
    "generation": 1,
    "start": NOW,
    "end": NOW,
    "requested_at": NOW,
    "updated_at": NOW,
}
RUNNING: Document = WAITING | {"status": "running", "attempts": 1, "lease": LEASE}
FINISHED: Document = WAITING | {"status": "finished", "attempts": 1, "upload": FILE, "size": 10}
FAILED: Document = WAITING | {"status": "failed", "attempts": 1, "message": "No data"}

#: What the contract allows and other programs may write.
ALLOWED: dict[str, Document] = {
    "nothing but what must be": {"_id": 1, "submission_id": 1, "file_type": "E", "status": "waiting"},
    "as the mongo shell writes numbers": {"_id": 1.0, "submission_id": 1.0, "file_type": "E", "status": "ready"},
    "null for absent": FINISHED | {"size": None, "message": None, "start": None, "end": None, "updated_at": None},
    "an upload that is null": WAITING | {"upload": None},
    "running, with no lease": WAITING | {"status": "running"},
    "finished, with the upload still to come": WAITING | {"status": "finished"},
    "finished, uploading, held": RUNNING | {"status": "finished", "upload": {"status": "running"}},
    "uploaded, still running, held": RUNNING | {"upload": FILE},
    "an upload that failed": WAITING | {"status": "finished", "upload": {"status": "failed"}},
    "no days for E": WAITING | {"file_type": "E", "start": None, "end": None},
    "fields of the writer's own": FINISHED
    | {"rows": 100, "rows.all": 100, "uploads.first": 1, "upload": FILE | {"etag": "1"}},
    "waiting": WAITING,
    "running": RUNNING,
    "finished": FINISHED,
    "failed": FAILED,
    "invalid": FAILED | {"status": "invalid"},
    # They have a meaning for callers, so other programs may write them.
    "failed without a message": {name: value for name, value in FAILED.items() if name != "message"},
    "failed with an empty message": FAILED | {"message": ""},
    "invalid with a blank message": FAILED | {"status": "invalid", "message": " \n"},
    "waiting with the last generation's file": WAITING | {"upload": FILE},
    "ready with a file": WAITING | {"status": "ready", "upload": FILE},
}

REFUSED: dict[str, Document] = {
    "a name with a dot": FINISHED | {"upload.status": "failed"},
    "no status": {name: value for name, value in WAITING.items() if name != "status"},
    "no submission": {name: value for name, value in WAITING.items() if name != "submission_id"},
    "no file type": {name: value for name, value in WAITING.items() if name != "file_type"},
    "an unknown status": WAITING | {"status": "done"},
    "a status of another case": WAITING | {"status": "Waiting"},
    "an unknown file type": WAITING | {"file_type": "D3"},
    "a job id that is text": WAITING | {"_id": "1"},
    "a submission id that is text": WAITING | {"submission_id": "1"},
    "a submission id of 0": WAITING | {"submission_id": 0},
    "half a submission id": WAITING | {"submission_id": 1.5},
    "a negative size": FINISHED | {"size": -1},
    "a size that is text": FINISHED | {"size": "10"},
    "half a byte": FINISHED | {"size": 10.5},
    "a date that is text": WAITING | {"start": "2026-07-01"},
    "a time that is a number": WAITING | {"updated_at": 1793491200},
    "days of a file that covers none": WAITING | {"file_type": "F", "end": None},
    "a message that is a number": FAILED | {"message": 7},
    "an upload that is no object": FINISHED | {"upload": "finished"},
    "an unknown upload status": FINISHED | {"upload": FILE | {"status": "done"}},
    "an uploaded file without a key": FINISHED | {"upload": {"status": "finished"}},
    "an uploaded file with an empty key": FINISHED | {"upload": FILE | {"key": ""}},
    "a bucket that is a number": FINISHED | {"upload": FILE | {"bucket": 1}},
    "waiting and held": WAITING | {"lease": LEASE},
    "ready and held": WAITING | {"status": "ready", "lease": LEASE},
    "failed and held": FAILED | {"lease": LEASE},
    "invalid and held": FAILED | {"status": "invalid", "lease": LEASE},
    "finished, uploaded and held": FINISHED | {"lease": LEASE},
    "a lease that is null": RUNNING | {"lease": None},
    "a lease without a token": RUNNING | {"lease": {"expires_at": NOW}},
    "a lease with an empty token": RUNNING | {"lease": LEASE | {"token": ""}},
    "a lease without an end": RUNNING | {"lease": {"token": "0123"}},
    "a lease that ends in text": RUNNING | {"lease": LEASE | {"expires_at": "soon"}},
    "a lease whose owner is a number": RUNNING | {"lease": LEASE | {"owner": 1}},
    "no generation": WAITING | {"generation": 0},
    "half a generation": WAITING | {"generation": 1.5},
    "negative attempts": RUNNING | {"attempts": -1},
    "a request at no time": WAITING | {"requested_at": "now"},
}


def test_validator_accepts_a_valid_job(initialized: Database) -> None:
    for document in ALLOWED.values():
        initialized["jobs"].replace_one({"submission_id": 1}, document, upsert=True)
        initialized["jobs"].delete_many({})


def test_validator_refuses_an_invalid_job(initialized: Database) -> None:
    for name, document in REFUSED.items():
        with pytest.raises(WriteError) as refusal:
            initialized["jobs"].insert_one(dict(document)).acknowledged or pytest.fail(name)
        assert refusal.value.code == 121, name  # The validator's own, and nothing else.


def test_validator_refuses_an_update_to_an_invalid_job(initialized: Database) -> None:
    initialized["jobs"].insert_one(dict(RUNNING))
    for status in ("ready", "waiting", "failed"):
        with pytest.raises(WriteError):
            initialized["jobs"].update_one({"_id": 1}, {"$set": {"status": status, "message": "by hand"}})
    initialized["jobs"].update_one({"_id": 1}, {"$set": {"status": "waiting"}, "$unset": {"lease": ""}})


def test_index_refuses_a_second_job_of_a_file(initialized: Database) -> None:
    initialized["jobs"].insert_one(dict(WAITING))
    with pytest.raises(DuplicateKeyError):
        initialized["jobs"].insert_one(WAITING | {"_id": 2})


@pytest.mark.parametrize(
    "counter", [{"_id": "jobs"}, {"_id": "jobs", "last": "1"}, {"_id": "jobs", "last": -1}, {"_id": 1, "last": 1}]
)
def test_validator_refuses_an_invalid_counter(initialized: Database, counter: Document) -> None:
    with pytest.raises(WriteError):
        initialized["counters"].insert_one(dict(counter))


SESSION: Document = {"_id": "0123456789abcdef" * 4, "user_id": 1, "expires_at": NOW}
#: What is not so of what lies beside the jobs: the collection, and one kind of nonsense.
REFUSED_ELSEWHERE: dict[str, tuple[str, Document]] = {
    "a submission id that is text": ("submissions", {"_id": "1", "user_id": 1}),
    "a submission of nobody": ("submissions", {"_id": 1}),
    "a submission of half a user": ("submissions", {"_id": 1, "user_id": 1.5}),
    "an agency that is a number": ("submissions", {"_id": 1, "user_id": 1, "cgac_code": 97}),
    "another agency that is a number": ("submissions", {"_id": 1, "user_id": 1, "frec_code": 1601}),
    "a user id that is text": ("users", {"_id": "1"}),
    "an admin by a word": ("users", {"_id": 1, "website_admin": "yes"}),
    "affiliations that are no list": ("users", {"_id": 1, "affiliations": {"cgac_code": "097"}}),
    "an affiliation that is text": ("users", {"_id": 1, "affiliations": ["097"]}),
    "an affiliation with a number": ("users", {"_id": 1, "affiliations": [{"frec_code": 1601}]}),
    "a token in place of its hash": ("sessions", SESSION | {"_id": "t0ken"}),
    "a hash in upper case": ("sessions", SESSION | {"_id": "0123456789ABCDEF" * 4}),
    "a session of nobody": ("sessions", {name: value for name, value in SESSION.items() if name != "user_id"}),
    "a session for ever": ("sessions", {name: value for name, value in SESSION.items() if name != "expires_at"}),
    "a session that ends in text": ("sessions", SESSION | {"expires_at": "tomorrow"}),
}


@pytest.mark.parametrize(("collection", "document"), REFUSED_ELSEWHERE.values(), ids=list(REFUSED_ELSEWHERE))
def test_validators_refuse_invalid_access_documents(initialized: Database, collection: str, document: Document) -> None:
    with pytest.raises(WriteError) as refusal:
        initialized[collection].insert_one(dict(document))
    assert refusal.value.code == 121


def test_validators_accept_valid_access_documents(initialized: Database) -> None:
    initialized["submissions"].insert_many([{"_id": 1.0, "user_id": 1}, {"_id": 2, "user_id": 1, "cgac_code": None}])
    affiliations = [{"cgac_code": "097", "permission": "reader"}, {"frec_code": None}]
    initialized["users"].insert_many([{"_id": 1}, {"_id": 2, "website_admin": None, "affiliations": affiliations}])
    initialized["sessions"].insert_one(dict(SESSION))
