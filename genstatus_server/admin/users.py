"""`genstatus user`: users, and what lets them view submissions."""

from typing import Any

import click
from pymongo import ReturnDocument
from pymongo.database import Database

from genstatus_server.admin.database import (
    ID,
    Command,
    Document,
    find_user,
    insert_with_free_id,
    printable,
    with_database,
)
from genstatus_server.admin.output import show_one, with_json
from genstatus_server.mongo.queries import USERS


@click.group()
def user() -> None:
    """Create users, and grant and revoke what they may view."""


def with_rights(command: Command) -> Command:
    """Give `command` the flags that name rights."""
    command = click.option("--admin", is_flag=True, help="Every submission (website admin).")(command)
    for name in ("frec", "cgac"):
        meaning = f"The submissions of this agency, by its {name.upper()}."
        command = click.option(f"--{name}", type=printable, metavar="CODE", help=meaning)(command)
    return command


@user.command()
@click.argument("email", type=printable, metavar="EMAIL")
@click.option("--id", "user_id", type=ID, metavar="ID", help="Its id. [default: the next free one]")
@with_json
@with_database
def create(database: Database[Document], email: str, user_id: int | None, *, as_json: bool) -> None:
    """Create a user, who may view only their own submissions."""
    if database[USERS].find_one({"email": email}, ["_id"]) is not None:
        raise click.ClickException(f"there is a user {email} already")
    document = {"email": email, "website_admin": False, "affiliations": []}
    show_one(_row(insert_with_free_id(database[USERS], document, user_id)), as_json=as_json)


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


@user.command()
@click.argument("who", type=printable, metavar="USER")
@with_rights
@with_json
@with_database
def revoke(  # noqa: PLR0913 - the same
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
        click.echo(f"user {who} was never granted {', '.join(missing)}", err=True)
    _change(database, found, update, as_json=as_json)


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
    show_one(_row(changed), as_json=as_json)


def _affiliations(document: Document) -> list[Document]:
    affiliations = document.get("affiliations")
    return [each for each in affiliations if isinstance(each, dict)] if isinstance(affiliations, list) else []


def _row(document: Document) -> dict[str, Any]:
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
