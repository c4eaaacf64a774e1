"""`genstatus user`: users, and what lets them view submissions."""

from typing import Any

import click
from pymongo import ReturnDocument
from pymongo.database import Database

from genstatus_server.admin.database import Command, Document, find_user, insert_with_free_id, with_database
from genstatus_server.admin.output import show_one, with_json


@click.group()
def user() -> None:
    """Create users, and grant and revoke what they may view."""


def with_rights(command: Command) -> Command:
    """Give `command` the flags that name rights."""
    command = click.option("--admin", is_flag=True, help="Every submission (website admin).")(command)
    command = click.option("--frec", metavar="CODE", help="The submissions of this agency, by its FREC.")(command)
    return click.option("--cgac", metavar="CODE", help="The submissions of this agency, by its CGAC.")(command)


@user.command()
@click.argument("email")
@click.option("--id", "user_id", type=click.IntRange(1, 2**63 - 1), help="Its id. [default: the next that is free]")
@with_json
@with_database
def create(database: Database[Document], email: str, user_id: int | None, *, as_json: bool) -> None:
    """Create a user who may view nothing but what is their own."""
    if database["users"].find_one({"email": email}, ["_id"]) is not None:
        raise click.ClickException(f"there is a user {email} already")
    document = {"email": email, "website_admin": False, "affiliations": []}
    show_one(_row(insert_with_free_id(database["users"], document, user_id)), as_json=as_json)


@user.command()
@click.argument("who", metavar="USER")
@with_rights
@click.option("--permission", default="reader", show_default=True, help="Of the affiliation; any lets the user view.")
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
        # Together with what is there already, so that repeating it changes nothing.
        affiliations = [{name: code, "permission": permission} for name, code in codes.items()]
        update["$addToSet"] = {"affiliations": {"$each": affiliations}}
    _change(database, who, update, as_json=as_json)


@user.command()
@click.argument("who", metavar="USER")
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
    _change(database, who, update, as_json=as_json)


def _codes(cgac: str | None, frec: str | None, *, admin: bool) -> dict[str, str]:
    codes = {name: code for name, code in (("cgac_code", cgac), ("frec_code", frec)) if code is not None}
    if "" in codes.values() or not (codes or admin):
        raise click.UsageError("say what: --cgac CODE, --frec CODE or --admin")
    return codes


def _change(database: Database[Document], who: str, update: Document, *, as_json: bool) -> None:
    query = {"_id": find_user(database, who)["_id"]}
    changed = database["users"].find_one_and_update(query, update, return_document=ReturnDocument.AFTER)
    if changed is None:
        raise click.ClickException(f"there is no user {who} any more")
    show_one(_row(changed), as_json=as_json)


def _row(document: Document) -> dict[str, Any]:
    affiliations = [
        f"{each.get('cgac_code') or each.get('frec_code')} ({each.get('permission')})"
        for each in document.get("affiliations") or []
        if isinstance(each, dict)
    ]
    return {
        "user_id": document["_id"],
        "email": document.get("email"),
        "website_admin": document.get("website_admin") is True,
        "affiliations": ", ".join(affiliations) or None,
    }
