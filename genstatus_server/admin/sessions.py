"""`genstatus session`: login sessions. A token is shown once, when it is created: MongoDB stores only its hash."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
from pymongo.database import Database

from genstatus_server.admin.database import Document, find_user, printable, with_database
from genstatus_server.admin.output import duration, show_all, show_one, with_json
from genstatus_server.model.access import hash_token
from genstatus_server.mongo.queries import SESSIONS

_TOKEN_BYTES: Final = 32
#: Characters of a session's id that `list` shows, and the fewest that `revoke` takes.
_SHOWN: Final = 12
_FEWEST: Final = 8


@click.group()
def session() -> None:
    """Create, list and revoke login sessions."""


@session.command()
@click.argument("user", type=printable, metavar="USER")
@click.option(
    "--ttl",
    type=duration,
    metavar="TIME",
    default="8h",
    show_default=True,
    help="How long it lasts, such as 30m or 7d.",
)
@with_json
@with_database
def create(database: Database[Document], user: str, ttl: int, *, as_json: bool) -> None:
    """Create a login session of USER (id or email) and print its token, which nothing can show again."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    document = {
        "_id": hash_token(token),
        "user_id": find_user(database, user)["_id"],
        "expires_at": datetime.now(UTC) + timedelta(seconds=ttl),
    }
    database[SESSIONS].insert_one(document)
    show_one({"token": token, **_row(document, whole=as_json)}, as_json=as_json)


@session.command("list")
@click.option("--user", type=printable, metavar="USER", help="Only those of this user (id or email).")
@with_json
@with_database
def list_(database: Database[Document], user: str | None, *, as_json: bool) -> None:
    """List the login sessions that have not expired, the newest to expire last."""
    query: Document = {"expires_at": {"$gt": datetime.now(UTC)}}
    if user is not None:
        query["user_id"] = find_user(database, user)["_id"]
    found = database[SESSIONS].find(query).sort("expires_at", 1)
    show_all([_row(each, whole=as_json) for each in found], as_json=as_json, nothing="no login sessions")


@session.command()
@click.argument("session_id", required=False, metavar="[SESSION]")
@click.option("--user", type=printable, metavar="USER", help="All those of this user (id or email).")
@with_json
@with_database
def revoke(database: Database[Document], session_id: str | None, user: str | None, *, as_json: bool) -> None:
    """Revoke SESSION (what `list` shows, or more of it) or all sessions of a user; what they hold ends at once."""
    if (session_id is None) == (user is None):
        raise click.UsageError("say which session, or --user")
    query = {"user_id": find_user(database, user)["_id"]} if user is not None else _one(database, session_id or "")
    count = database[SESSIONS].delete_many(query).deleted_count
    show_one({"revoked": count}, as_json=as_json)


def _one(database: Database[Document], beginning: str) -> Document:
    if len(beginning) < _FEWEST or set(beginning) - set("0123456789abcdef"):
        raise click.UsageError(f"a session is named by {_FEWEST} or more characters of its id, as `list` shows it")
    query = {"_id": {"$gte": beginning, "$lt": beginning + "g"}}
    count = database[SESSIONS].count_documents(query, limit=2)
    if count != 1:
        raise click.ClickException(f"there is {'more than one' if count else 'no'} session {beginning}")
    return query


def _row(document: Document, *, whole: bool) -> dict[str, Any]:
    session_id = str(document["_id"])
    row = {"session": session_id if whole else session_id[:_SHOWN], "user_id": document.get("user_id")}
    return row | {"expires_at": document.get("expires_at")}
