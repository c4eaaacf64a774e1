"""What lies in MongoDB when a fault begins: many submissions of one user, each with a job in `waiting`."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pymongo
from pymongo import WriteConcern
from pymongo.errors import ConnectionFailure, PyMongoError, WriteError

from tests.support.world import Document, in_future, token_hash

if TYPE_CHECKING:
    from pymongo.database import Database

TOKEN: Final = "owner"
USER: Final = 1


class Scene:
    """The documents of one database, and the writes of workers and operators; all of `w: majority`, and blocking."""

    def __init__(self, client: "pymongo.MongoClient[Document]", name: str, *, majority: bool = True) -> None:
        self.client = client
        self.name = name
        concern = WriteConcern("majority") if majority else WriteConcern(1)
        self.database: Database[Document] = client.get_database(name, write_concern=concern)

    def prepare(self, submissions: Iterable[int]) -> None:
        """A user who is logged in as `owner`, and these submissions of theirs, each with its D1 in `waiting`."""
        numbers = list(submissions)
        database = self.database
        database["users"].replace_one({"_id": USER}, {}, upsert=True)
        self.log_in(TOKEN)
        database["submissions"].insert_many([{"_id": number, "user_id": USER} for number in numbers])
        database["jobs"].insert_many(
            [{"_id": number, "submission_id": number, "file_type": "D1", "status": "waiting"} for number in numbers]
        )
        # What a server would do without: a thousand jobs looked for in a heap.
        database["jobs"].create_index([("submission_id", 1), ("file_type", 1)], unique=True)

    def log_in(self, token: str, user_id: int = USER, *, seconds: float = 3600) -> None:
        session = {"user_id": user_id, "expires_at": in_future(seconds)}
        self.database["sessions"].replace_one({"_id": token_hash(token)}, session, upsert=True)

    def log_out(self, token: str) -> None:
        self.database["sessions"].delete_one({"_id": token_hash(token)})

    def finish(self, numbers: Sequence[int]) -> None:
        """What workers write when the files are there, again and again until a primary has taken it."""
        while True:
            try:
                self.database["jobs"].update_many({"_id": {"$in": list(numbers)}}, [{"$set": finished("$_id")}])
            except (ConnectionFailure, WriteError):
                time.sleep(0.05)
            else:
                return

    def set_jobs(self, numbers: Sequence[int], **fields: Any) -> None:
        self.database["jobs"].update_many({"_id": {"$in": list(numbers)}}, {"$set": fields})


def finished(number: Any) -> Document:
    key = {"$concat": [{"$toString": number}, "/D1.csv"]}
    return {"status": "finished", "upload": {"status": "finished", "key": key}, "updated_at": "$$NOW"}


@contextmanager
def scene(uri: str, name: str, *, majority: bool = True, **options: Any) -> Iterator[Scene]:
    """A scene in the database `name`, which is dropped afterwards where MongoDB is still there."""
    with pymongo.MongoClient[Document](uri, tz_aware=True, **options) as client:
        yield Scene(client, name, majority=majority)
        with suppress(PyMongoError):  # It may be away for good.
            client.drop_database(name)
