"""What lies in MongoDB and S3 when a test begins, and the writes that workers and operators would make.

The users of the world, by their tokens: `owner` owns submission 1, `reader` and `fabs` belong to its agencies,
`admin` is a website admin, `stranger` is nobody to it.
"""

import hashlib
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pymongo import AsyncMongoClient, WriteConcern

from tests.support import secrecy
from tests.support.services import S3

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

Document = dict[str, Any]

SUBMISSION: Final = 1
USERS: Final[dict[str, Document]] = {
    "owner": {"_id": 11},
    "reader": {"_id": 12, "affiliations": [{"cgac_code": "097", "permission": "reader"}]},
    "fabs": {"_id": 13, "affiliations": [{"frec_code": "1601", "permission": "fabs"}]},
    "admin": {"_id": 14, "website_admin": True},
    "stranger": {"_id": 15, "affiliations": [{"cgac_code": "020", "permission": "writer"}]},
}


def token_hash(token: str) -> str:
    secrecy.note(token)
    return hashlib.sha256(token.encode()).hexdigest()


def in_future(seconds: float = 3600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class World:
    """The documents of one database, written with `w: majority` as a good worker does."""

    def __init__(self, uri: str, name: str) -> None:
        self.client: AsyncMongoClient[Document] = AsyncMongoClient(uri, tz_aware=True)
        self.database = self.client.get_database(name, write_concern=WriteConcern("majority"))
        self.name = name

    @property
    def jobs(self) -> "AsyncCollection[Document]":
        return self.database["jobs"]

    @property
    def submissions(self) -> "AsyncCollection[Document]":
        return self.database["submissions"]

    @property
    def users(self) -> "AsyncCollection[Document]":
        return self.database["users"]

    @property
    def sessions(self) -> "AsyncCollection[Document]":
        return self.database["sessions"]

    async def begin(self) -> None:
        """The users, their login sessions (a token is the user's name) and submission 1; no job."""
        await self.users.insert_many([dict(user) for user in USERS.values()])
        for token, user in USERS.items():
            await self.log_in(token, user["_id"])
        await self.submissions.insert_one(
            {"_id": SUBMISSION, "user_id": USERS["owner"]["_id"], "cgac_code": "097", "frec_code": "1601"}
        )

    async def log_in(self, token: str, user_id: int, *, seconds: float = 3600) -> None:
        session = {"_id": token_hash(token), "user_id": user_id, "expires_at": in_future(seconds)}
        await self.sessions.replace_one({"_id": session["_id"]}, session, upsert=True)

    async def log_out(self, token: str) -> None:
        await self.sessions.delete_one({"_id": token_hash(token)})

    async def put_job(self, job_id: int = 100, file_type: str = "D1", **fields: Any) -> None:
        """A job of submission 1 in `waiting`, but for `fields`."""
        document = {"_id": job_id, "submission_id": SUBMISSION, "file_type": file_type, "status": "waiting", **fields}
        await self.jobs.replace_one({"_id": job_id}, document, upsert=True)

    async def finish(self, job_id: int = 100, key: str = "1/D1.csv", **fields: Any) -> None:
        """What a worker writes when the file is there."""
        upload = {"status": "finished", "key": key}
        await self.jobs.update_one({"_id": job_id}, {"$set": {"status": "finished", "upload": upload, **fields}})

    async def close(self) -> None:
        await self.client.close()


def upload(s3: S3, key: str, content: bytes, bucket: str | None = None) -> None:
    """Put a file into the S3 server, with a client that blocks."""
    with closing(s3.client()) as client:
        if bucket:
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket or s3.bucket, Key=key, Body=content)
