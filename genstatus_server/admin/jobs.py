"""`genstatus submission` and `genstatus job`: submissions, and the jobs that generate their files."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from pymongo.database import Database

from genstatus_server.admin.database import (
    ID,
    Document,
    age,
    duration,
    find_user,
    insert_with_free_id,
    printable,
    show_all,
    show_one,
    with_database,
    with_json,
)
from genstatus_server.model.jobs import FILE_TYPES, GenerationStatus, Job, job_from_document
from genstatus_server.mongo.queries import JOBS, SUBMISSIONS


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


@click.group()
def job() -> None:
    """Show and list generation jobs."""


@job.command()
@click.argument("submission_id", type=ID, metavar="SUBMISSION")
@click.argument("file_type", type=click.Choice(FILE_TYPES), metavar="FILE_TYPE")
@with_json
@with_database
def show(database: Database[Document], submission_id: int, file_type: str, *, as_json: bool) -> None:
    """Show the job that generates a file of a submission: its document, and the status that callers get."""
    document = database[JOBS].find_one({"submission_id": submission_id, "file_type": file_type})
    if document is None:
        raise click.ClickException(f"submission {submission_id} has no job for {file_type}: callers get `invalid`")
    found = job_from_document(document)
    shown: Document = {
        "generation_status": found.generation_status.value,
        "nothing_happened_for": age(found.updated_at),
    }
    if found.problems:
        shown["problems"] = list(found.problems)
    show_one(shown | document, as_json=as_json)


@job.command("list")
@click.option(
    "--stuck",
    type=duration,
    metavar="TIME",
    help="Only waiting jobs that were not updated for this long, such as 2h.",
)
@click.option(
    "--status",
    type=click.Choice([each.value for each in GenerationStatus]),
    help="Only jobs with this status for callers.",
)
@click.option("--limit", type=click.IntRange(1, 100_000), metavar="NUMBER", default=100, show_default=True)
@with_json
@with_database
def list_(database: Database[Document], stuck: int | None, status: str | None, limit: int, *, as_json: bool) -> None:
    """List jobs, the longest without an update first."""
    query: Document = {}
    if stuck is not None:
        if status not in (None, "waiting"):
            raise click.UsageError("a job that is stuck has the status waiting")
        status = "waiting"
        # Not "less than": a job without `updated_at` counts as stuck.
        query["updated_at"] = {"$not": {"$gte": datetime.now(UTC) - timedelta(seconds=stuck)}}
    if status == "waiting":
        without_file = {"status": "finished", "upload.status": {"$in": [None, "waiting", "running"]}}
        query["$or"] = [{"status": {"$in": ["waiting", "running"]}}, without_file]
    rows = []
    # The query is a first selection; what a document means is decided in `model` alone.
    for document in database[JOBS].find(query).sort([("updated_at", 1), ("_id", 1)]):
        found = job_from_document(document)
        if status in (None, found.generation_status.value):
            rows.append(_row(document, found))
        if len(rows) == limit:
            break
    show_all(rows, as_json=as_json, nothing="no jobs" if stuck is None else "no stuck jobs")


def _row(document: Document, found: Job) -> dict[str, Any]:
    upload = document.get("upload")
    return {
        "job_id": document["_id"],
        "submission_id": document.get("submission_id"),
        "file_type": document.get("file_type"),
        "generation_status": found.generation_status.value,
        "status": document.get("status"),
        "upload_status": upload.get("status") if isinstance(upload, dict) else None,
        "updated_at": found.updated_at,
        "nothing_happened_for": age(found.updated_at),
    }
