"""`genstatus init-db`: the collections with their validators, and the indexes."""

import click

from genstatus_server.mongo.migration import initialize
from genstatus_server.settings import mongodb_settings, with_flags


@click.command("init-db")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@with_flags("mongodb_uri", "mongodb_database")
def init_db(config: str | None, *, dry_run: bool, **flags: str | None) -> None:
    """Create the collections with their validators, and the indexes. Safe to repeat."""
    settings = mongodb_settings(flags, config)
    lines = list(initialize(settings.mongodb_uri or "", settings.mongodb_database, dry_run=dry_run))
    for line in lines or [f"{settings.mongodb_database}: nothing to do"]:
        click.echo(line)
