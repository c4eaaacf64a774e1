"""`genstatus user` and `genstatus session`: who may view what, and their login sessions."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
from pymongo import ReturnDocument
from pymongo.database import Database

from genstatus_server.admin.database import (
    ID,
    Command,
    Document,
    duration,
    find_user,
    insert_with_free_id,
    printable,
    show_all,
    show_one,
    with_database,
    with_json,
)
from genstatus_server.model.access import hash_token
from genstatus_server.mongo.queries import SESSIONS, USERS

_TOKEN_BYTES: Final = 32
#: Characters of a session's id that `list` shows, and the fewest that `revoke` takes.
_SHOWN: Final = 12
_FEWEST: Final = 8


@click.group()
def user() -> None:
    """Create users, and grant and revoke what they may view."""


@click.group()
def session() -> None:
    """Create, list and revoke login sessions."""


def with_rights(command: Command) -> Command:
    """Give `command` the flags that name rights."""
    command = click.option("--admin", is_flag=True, help="Every submission (website admin).")(command)
    for name in ("frec", "cgac"):
        meaning = f"The submissions of this agency, by its {name.upper()}."
        command = click.option(f"--{name}", type=printable, metavar="CODE", help=meaning)(command)
    return command


@user.command("create")
@click.argument("email", type=printable, metavar="EMAIL")
@click.option("--id", "user_id", type=ID, metavar="ID", help="Its id. [default: the next free one]")
@with_json
@with_database
def create_user(database: Database[Document], email: str, user_id: int | None, *, as_json: bool) -> None:
    """Create a user, who may view only their own submissions."""
    if database[USERS].find_one({"email": email}, ["_id"]) is not None:
        raise click.ClickException(f"there is a user {email} already")
    document = {"email": email, "website_admin": False, "affiliations": []}
    show_one(_user_row(insert_with_free_id(database[USERS], document, user_id)), as_json=as_json)


@user.command()
@click.argument("who", type=printable, metavar="USER")
@with_rights
@click.option(
    "--permission",
    type=printable,
    metavar="NAME",
    default="reader",
    show_default=True,
    help="Permission of the affiliation; any lets the user view.",
)
@with_json
@with_database
def grant(  # noqa: PLR0913 - click gives each by its name.
    database: Database[Document],
    who: str,
    cgac: str | None,
    frec: str | None,
    permission: str,
    *,
    admin: bool,
    as_json: bool,
) -> None:
    """Let USER (id or email) view the submissions of an agency, or all."""
    codes = _codes(cgac, frec, admin=admin)
    update: Document = {"$set": {"website_admin": True}} if admin else {}
    if codes:
        # A set: repeating it changes nothing.
        affiliations = [{name: code, "permission": permission} for name, code in codes.items()]
        update["$addToSet"] = {"affiliations": {"$each": affiliations}}
    _change(database, find_user(database, who), update, as_json=as_json)


@user.command("revoke")
@click.argument("who", type=printable, metavar="USER")
@with_rights
@with_json
@with_database
def revoke_rights(  # noqa: PLR0913 - the same
    database: Database[Document], who: str, cgac: str | None, frec: str | None, *, admin: bool, as_json: bool
) -> None:
    """Take from USER (id or email) what `grant` gave; a hold of theirs ends at once."""
    codes = _codes(cgac, frec, admin=admin)
    update: Document = {"$set": {"website_admin": False}} if admin else {}
    if codes:
        update["$pull"] = {"affiliations": {"$or": [{name: code} for name, code in codes.items()]}}
    found = find_user(database, who)
    granted = [(name, each.get(name)) for each in _affiliations(found) for name in codes]
    missing = [f"{name} {code}" for name, code in codes.items() if (name, code) not in granted]
    if admin and found.get("website_admin") is not True:
        missing.append("website_admin")
    if missing:
        click.echo(f"user {who} does not have {', '.join(missing)}", err=True)
    _change(database, found, update, as_json=as_json)


@session.command("create")
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
def create_session(database: Database[Document], user: str, ttl: int, *, as_json: bool) -> None:
    """Create a login session of USER (id or email) and print its token, which nothing can show again."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    document = {
        "_id": hash_token(token),
        "user_id": find_user(database, user)["_id"],
        "expires_at": datetime.now(UTC) + timedelta(seconds=ttl),
    }
    database[SESSIONS].insert_one(document)
    show_one({"token": token, **_session_row(document, whole=as_json)}, as_json=as_json)


@session.command("list")
@click.option("--user", type=printable, metavar="USER", help="Only those of this user (id or email).")
@with_json
@with_database
def list_sessions(database: Database[Document], user: str | None, *, as_json: bool) -> None:
    """List the login sessions that have not expired, the newest to expire last."""
    query: Document = {"expires_at": {"$gt": datetime.now(UTC)}}
    if user is not None:
        query["user_id"] = find_user(database, user)["_id"]
    found = database[SESSIONS].find(query).sort("expires_at", 1)
    show_all([_session_row(each, whole=as_json) for each in found], as_json=as_json, nothing="no login sessions")


@session.command("revoke")
@click.argument("session_id", required=False, metavar="[SESSION]")
@click.option("--user", type=printable, metavar="USER", help="All those of this user (id or email).")
@with_json
@with_database
def revoke_sessions(database: Database[Document], session_id: str | None, user: str | None, *, as_json: bool) -> None:
    """Revoke SESSION (what `list` shows, or more of it) or all sessions of a user; what they hold ends at once."""
    if (session_id is None) == (user is None):
        raise click.UsageError("say which session, or --user")
    query = (
        {"user_id": find_user(database, user)["_id"]}
        if user is not None
        else _session_query(database, session_id or "")
    )
    count = database[SESSIONS].delete_many(query).deleted_count
    show_one({"revoked": count}, as_json=as_json)


def _codes(cgac: str | None, frec: str | None, *, admin: bool) -> dict[str, str]:
    codes = {name: code for name, code in (("cgac_code", cgac), ("frec_code", frec)) if code is not None}
    if not (codes or admin):
        raise click.UsageError("say what: --cgac CODE, --frec CODE or --admin")
    return codes


def _change(database: Database[Document], found: Document, update: Document, *, as_json: bool) -> None:
    query = {"_id": found["_id"]}
    changed = database[USERS].find_one_and_update(query, update, return_document=ReturnDocument.AFTER)
    if changed is None:
        raise click.ClickException(f"user {found['_id']} has just been deleted")
    show_one(_user_row(changed), as_json=as_json)


def _affiliations(document: Document) -> list[Document]:
    affiliations = document.get("affiliations")
    return [each for each in affiliations if isinstance(each, dict)] if isinstance(affiliations, list) else []


def _user_row(document: Document) -> dict[str, Any]:
    affiliations = [
        f"{each.get('cgac_code') or each.get('frec_code')} ({each.get('permission')})"
        for each in _affiliations(document)
    ]
    return {
        "user_id": document["_id"],
        "email": document.get("email"),
        "website_admin": document.get("website_admin") is True,
        "affiliations": ", ".join(affiliations) or None,
    }


def _session_query(database: Database[Document], beginning: str) -> Document:
    """The query for the one session whose id has this beginning."""
    if len(beginning) < _FEWEST or set(beginning) - set("0123456789abcdef"):
        raise click.UsageError(f"a session is named by {_FEWEST} or more characters of its id, as `list` shows it")
    query = {"_id": {"$gte": beginning, "$lt": beginning + "g"}}
    count = database[SESSIONS].count_documents(query, limit=2)
    if count != 1:
        raise click.ClickException(f"there is {'more than one' if count else 'no'} session {beginning}")
    return query


def _session_row(document: Document, *, whole: bool) -> dict[str, Any]:
    session_id = str(document["_id"])
    row = {"session": session_id if whole else session_id[:_SHOWN], "user_id": document.get("user_id")}
    return row | {"expires_at": document.get("expires_at")}
