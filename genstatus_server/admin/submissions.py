"""`genstatus submission`: submissions, for trying the service out or for one that got lost."""

import click
from pymongo.database import Database

from genstatus_server.admin.database import ID, Document, find_user, insert_with_free_id, printable, with_database
from genstatus_server.admin.output import show_one, with_json
from genstatus_server.mongo.queries import SUBMISSIONS


@click.group()
def submission() -> None:
    """Create submissions."""


@submission.command()
@click.argument("owner", type=printable, metavar="USER")
@click.option("--id", "submission_id", type=ID, metavar="ID", help="Its id. [default: the next free one]")
@click.option("--cgac", type=printable, metavar="CODE", help="The CGAC of the agency whose users may view it.")
@click.option("--frec", type=printable, metavar="CODE", help="The FREC of the agency whose users may view it.")
@with_json
@with_database
def create(  # noqa: PLR0913 - click gives each by its name.
    database: Database[Document],
    owner: str,
    submission_id: int | None,
    cgac: str | None,
    frec: str | None,
    *,
    as_json: bool,
) -> None:
    """Create a submission that USER (id or email) owns."""
    document = {"user_id": find_user(database, owner)["_id"], "cgac_code": cgac, "frec_code": frec}
    made = insert_with_free_id(database[SUBMISSIONS], document, submission_id)
    show_one({"submission_id": made.pop("_id"), **made}, as_json=as_json)
