"""What an operator reads of MongoDB's errors: a plain line that says what to do, and nothing of the driver's."""

from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure

from genstatus_server.model.errors import StartupError
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.schema import initialize

if TYPE_CHECKING:
    from pymongo import MongoClient


def test_explain_shows_no_text_of_the_driver() -> None:
    details = {"code": 7, "codeName": "HostNotFound", "errmsg": "secret", "$clusterTime": {"clusterTime": 1}}
    assert explain(OperationFailure("secret", 7, details)) == "MongoDB refused: HostNotFound (code 7)"
    assert explain(OperationFailure("secret")) == "MongoDB refused: unknown error (code None)"
    assert explain(AutoReconnect("secret")) == "MongoDB cannot be reached: the connection fails"


def test_init_db_explains_duplicates(
    mongodb_uri: str, sync_mongodb: "MongoClient[dict[str, Any]]", database_name: str
) -> None:
    job = {"submission_id": 1, "file_type": "D1", "status": "waiting"}
    sync_mongodb[database_name]["jobs"].insert_many([{"_id": 1, **job}, {"_id": 2, **job}])
    with pytest.raises(StartupError, match="init-db: MongoDB refused: a unique index allows one document"):
        list(initialize(mongodb_uri, database_name))


def test_init_db_explains_a_view(
    mongodb_uri: str, sync_mongodb: "MongoClient[dict[str, Any]]", database_name: str
) -> None:
    sync_mongodb[database_name].create_collection("jobs", viewOn="others", pipeline=[])
    with pytest.raises(StartupError, match="init-db: MongoDB refused: a view is in the place of a collection"):
        list(initialize(mongodb_uri, database_name))


def test_init_db_explains_an_index_that_clashes(
    mongodb_uri: str, sync_mongodb: "MongoClient[dict[str, Any]]", database_name: str
) -> None:
    sync_mongodb[database_name]["sessions"].create_index("expires_at", name="expires_at_ttl")
    with pytest.raises(StartupError, match="drop it first"):
        list(initialize(mongodb_uri, database_name))
