"""The demo's users, logins, submissions, jobs and files, and the calls to try. There is a job in every state.

Safe to repeat: every document has a fixed id and is replaced. Logins are made anew for another 30 days.

| submission | D1 | D2 | E | F |
| --- | --- | --- | --- | --- |
| 1 | kept moving by the worker | finished | finished | never requested: invalid |
| 2 | waiting, for a worker | running, for ever | upload waits | upload runs |
| 3 | failed, with a message | invalid | upload failed | makes no sense: failed |
| 4 | upload not begun | finished, an unusual name | no job: invalid | failed, without a message |

All belong to the owner; 1, 2 and 3 are also of the reader's agency.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.request import getproxies

import botocore.session
from botocore.config import Config
from pymongo import MongoClient, WriteConcern
from pymongo.database import Database

from genstatus_server.model.access import hash_token
from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS

Document = dict[str, Any]

#: The job that the worker keeps moving.
DEMO_SUBMISSION_ID: Final = 1
DEMO_FILE_TYPE: Final = "D1"
DEMO_JOB_ID: Final = 11
#: Runs for ever, to show a hold that reaches its deadline. It has no lease, so no worker takes it over.
STUCK_SUBMISSION_ID: Final = 2
STUCK_FILE_TYPE: Final = "D2"

#: The days that the D1 and D2 files cover.
START: Final = datetime(2026, 7, 1, tzinfo=UTC)
END: Final = datetime(2026, 9, 30, tzinfo=UTC)

_LOGIN_LIFETIME: Final = timedelta(days=30)
_UPDATED_AT: Final = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)

_OWNER, _READER, _ADMIN, _STRANGER = 1, 2, 3, 4

_FINISHED_KEYS: Final = {(1, "D2"): "1/D2.csv", (1, "E"): "1/E.csv", (4, "D2"): "4/année 2026 + annexes.csv"}

#: What each job's document says beside what all have; a finished file's is made from its key.
_STATES: Final[Mapping[tuple[int, str], Document]] = {
    (DEMO_SUBMISSION_ID, DEMO_FILE_TYPE): {"status": "waiting"},
    (1, "F"): {"status": "ready"},
    (2, "D1"): {"status": "waiting"},
    (STUCK_SUBMISSION_ID, STUCK_FILE_TYPE): {"status": "running"},
    (2, "E"): {"status": "finished", "upload": {"status": "waiting"}},
    (2, "F"): {"status": "finished", "upload": {"status": "running"}},
    (3, "D1"): {"status": "failed", "message": "The award data for this agency could not be read"},
    (3, "D2"): {"status": "invalid", "message": "The end date lies before the start date"},
    (3, "E"): {"status": "finished", "upload": {"status": "failed"}, "message": "The file could not be stored"},
    (3, "F"): {"status": "finished", "upload": {"status": "finished"}},
    (4, "D1"): {"status": "finished"},
    (4, "F"): {"status": "failed"},
}
#: Seconds; the S3 is on the same machine.
_TIMEOUT = 2
#: `-w` ends the output with a line break, which a JSON body does not.
_CURL: Final = r"curl -sS -w '\n'"
_CURL_STATUS: Final = r"curl -sS -w '\n%{http_code}\n'"


@dataclass(frozen=True)
class DemoTokens:
    """The session tokens of the demo's users. They are public: do not let others reach a demo."""

    owner: str = "demo-owner"
    reader: str = "demo-reader"
    admin: str = "demo-admin"
    stranger: str = "demo-stranger"


def seed(mongodb_uri: str, database: str, storage: "Storage") -> DemoTokens:
    """Write all samples, acknowledged by a majority, and upload the files of those that are finished.

    Raises PyMongoError, BotoCoreError or ClientError where MongoDB or S3 does not do its part.
    """
    tokens = DemoTokens()
    with storage.opened() as files:
        for (_, file_type), key in _FINISHED_KEYS.items():
            files.upload(key, sample_csv(file_type))
    with MongoClient[Document](mongodb_uri, tz_aware=True) as client:
        sampled = client.get_database(database, write_concern=WriteConcern("majority"))
        for name, documents in _documents(tokens).items():
            _replace(sampled, name, documents)
    return tokens


def sample_csv(file_type: str) -> bytes:
    """The content of a generated file."""
    rows = (f"{file_type},{number:04},{number * 1250.5:.2f}" for number in range(1, 101))
    return "\r\n".join(("file_type,award_id,obligated_amount", *rows, "")).encode()


def _replace(database: Database[Document], name: str, documents: list[Document]) -> None:
    for document in documents:
        # Some samples are malformed on purpose: they bypass the validator of `init-db`.
        lacks_key = document.get("upload") == {"status": "finished"}
        lacks_message = document.get("status") == "failed" and "message" not in document
        database[name].replace_one(
            {"_id": document["_id"]}, document, upsert=True, bypass_document_validation=lacks_key or lacks_message
        )


def _documents(tokens: DemoTokens) -> dict[str, list[Document]]:
    return {
        USERS: list(_users()),
        SUBMISSIONS: list(_submissions()),
        JOBS: list(_jobs()),
        SESSIONS: list(_login_sessions(tokens)),
    }


def _users() -> Iterator[Document]:
    defense: Document = {"cgac_code": "097", "permission": "reader"}
    treasury: Document = {"cgac_code": "020", "permission": "submitter"}
    yield {"_id": _OWNER, "email": "owner@example.gov", "website_admin": False, "affiliations": []}
    yield {"_id": _READER, "email": "reader@example.gov", "website_admin": False, "affiliations": [defense]}
    yield {"_id": _ADMIN, "email": "admin@example.gov", "website_admin": True, "affiliations": []}
    yield {"_id": _STRANGER, "email": "stranger@example.gov", "website_admin": False, "affiliations": [treasury]}


def _submissions() -> Iterator[Document]:
    for submission_id in (1, 2, 3):
        yield {"_id": submission_id, "user_id": _OWNER, "cgac_code": "097", "frec_code": None}
    yield {"_id": 4, "user_id": _OWNER, "cgac_code": None, "frec_code": "1601"}


def _login_sessions(tokens: DemoTokens) -> Iterator[Document]:
    expires_at = datetime.now(UTC) + _LOGIN_LIFETIME
    users = {tokens.owner: _OWNER, tokens.reader: _READER, tokens.admin: _ADMIN, tokens.stranger: _STRANGER}
    for token, user_id in users.items():
        yield {"_id": hash_token(token), "user_id": user_id, "expires_at": expires_at}


def _jobs() -> Iterator[Document]:
    finished = {
        (submission_id, file_type): {
            "status": "finished",
            "upload": {"status": "finished", "key": key},
            "size": len(sample_csv(file_type)),
        }
        for (submission_id, file_type), key in _FINISHED_KEYS.items()
    }
    for (submission_id, file_type), state in {**_STATES, **finished}.items():
        job: Document = {
            "_id": submission_id * 10 + FILE_TYPES.index(file_type) + 1,
            "submission_id": submission_id,
            "file_type": file_type,
            "updated_at": _UPDATED_AT,
        }
        yield job | ({"start": START, "end": END} if file_type in DATED_FILE_TYPES else {}) | state


@dataclass(frozen=True)
class Storage:
    """A bucket and how to reach it. Without keys, they come from the AWS chain, AWS_* of the environment first."""

    bucket: str
    region: str | None = None
    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)

    @contextmanager
    def opened(self) -> Iterator["Files"]:
        """The bucket, opened for uploads while the block lasts."""
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if self.endpoint_url else "virtual"},
            connect_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
            retries={"total_max_attempts": 2},
            proxies={} if self.endpoint_url else None,  # None: as the environment says; loopback needs none.
        )
        client: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )
        with closing(client):
            yield Files(client, self.bucket)


@dataclass(frozen=True)
class Files:
    """Uploads to one bucket."""

    client: Any
    bucket: str

    def upload(self, key: str, body: bytes) -> None:
        """Store a CSV file. Raises what botocore raises (BotoCoreError, ClientError)."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="text/csv")


def curl_lines(base_url: str, tokens: DemoTokens | None = None) -> str:
    """What to paste into another terminal, for the server at `base_url`; each call is one line."""
    tokens = tokens or DemoTokens()
    route = f"{base_url.rstrip('/')}/v1/check_generation_status/"
    demo = f"'{route}?submission_id={DEMO_SUBMISSION_ID}&file_type={DEMO_FILE_TYPE}"
    stuck = f"'{route}?submission_id={STUCK_SUBMISSION_ID}&file_type={STUCK_FILE_TYPE}"
    owner, stranger = (f"-H 'X-Session-ID: {token}'" for token in (tokens.owner, tokens.stranger))
    take_url = r"""sed -n 's/.*"url": *"\([^"]*\)".*/\1/p'"""
    calls = {
        "A plain poll; sometimes waiting, sometimes finished": f"{_CURL} {owner} {demo}'",
        "A hold: answered as soon as the file is finished, within 4 seconds": f"{_CURL} {owner} {demo}&wait=true'",
        "A hold that reaches its deadline of 3 seconds": f"{_CURL} {owner} {stuck}&wait=true&timeout=3'",
        "Not logged in: 401": f"{_CURL_STATUS} {demo}'",
        "Somebody else's submission: 403": f"{_CURL_STATUS} {stranger} {demo}'",
        "A hold, and the download of its file": (
            f"curl -sS {owner} {demo}&wait=true' | {take_url} | xargs curl -sS -f -o /tmp/{DEMO_FILE_TYPE}.csv"
            f" && head -n 3 /tmp/{DEMO_FILE_TYPE}.csv"
        ),
    }
    text = "\n".join(f"{what}:\n\n    {call}\n" for what, call in calls.items())
    # The other terminal has a proxy where this one has; no proxy reaches this machine's loopback.
    return text.replace("curl -sS", "curl -sS --noproxy '*'") if getproxies().get("http") else text
