"""`genstatus init-db` and `genstatus init-roles`: the collections, validators, indexes and roles in MongoDB."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from pymongo.database import Database

from genstatus_server.admin.database import Document, with_database
from genstatus_server.jobs_writer.changes import COUNTERS
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS
from genstatus_server.mongo.schema import initialize
from genstatus_server.settings import mongodb_settings, with_flags

_EVERY: Final = ""
_READ_AND_WRITE: Final = ("find", "insert", "update")

#: What each role may do on which collections of the database. A change stream needs `find` on all of it.
ROLES: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "genstatus_serve": {_EVERY: ("changeStream", "find", "listCollections", "listIndexes")},
    "genstatus_init": {
        _EVERY: ("collMod", "createCollection", "createIndex", "find", "listCollections", "listIndexes")
    },
    "genstatus_worker": {JOBS: (*_READ_AND_WRITE, "changeStream", "listIndexes"), COUNTERS: _READ_AND_WRITE},
    "genstatus_admin": {
        JOBS: ("find",),
        SUBMISSIONS: _READ_AND_WRITE,
        USERS: _READ_AND_WRITE,
        SESSIONS: (*_READ_AND_WRITE, "remove"),
    },
}


@click.command("init-db")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@with_flags("mongodb_uri", "mongodb_database")
def init_db(config: str | None, *, dry_run: bool, **flags: str | None) -> None:
    """Create the collections with their validators, and the indexes. Safe to repeat."""
    settings = mongodb_settings(flags, config)
    line = None
    for line in initialize(settings.mongodb_uri or "", settings.mongodb_database, dry_run=dry_run):
        click.echo(line)
    if line is None:
        click.echo(f"{settings.mongodb_database}: nothing to do")


@click.command("init-roles")
@with_database
def init_roles(database: Database[Document]) -> None:
    """Make the MongoDB roles, or bring them up to date.

    They are genstatus_serve, genstatus_init, genstatus_worker and genstatus_admin.
    """
    there = {each["role"] for each in database.command("rolesInfo", 1)["roles"]}
    for role, privileges in ROLES.items():
        granted = [_privilege(database.name, collection, actions) for collection, actions in privileges.items()]
        database.command("updateRole" if role in there else "createRole", role, privileges=granted, roles=[])
        for collection, actions in privileges.items():
            where = f"{database.name}.{collection or '*'}"
            click.echo(f"{role}: {', '.join(actions)} on {where}")


def _privilege(database: str, collection: str, actions: Sequence[str]) -> dict[str, Any]:
    return {"resource": {"db": database, "collection": collection}, "actions": list(actions)}
