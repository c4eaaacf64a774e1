"""`genstatus check`: whether the server can work with the MongoDB, the S3 and the options that it is given."""

import sys

import click

from genstatus_server.admin.check_mongodb import check_mongodb
from genstatus_server.admin.check_s3 import check_s3
from genstatus_server.admin.database import printable
from genstatus_server.admin.output import Result, show_findings, with_json
from genstatus_server.settings import mongodb_settings, with_flags


@click.command()
@click.option("--download", "key", type=printable, metavar="KEY", help="Fetch this file of the bucket.")
@with_json
@with_flags()
def check(config: str | None, key: str | None, *, as_json: bool, **flags: str | None) -> None:
    """Check MongoDB, S3 and the options of `serve`, which it takes. It changes nothing.

    Exit status: 0 the server can work (there may be warnings), 1 it cannot, 2 bad usage or options.
    """
    settings = mongodb_settings(flags, config)
    findings = [*check_mongodb(settings.mongodb_uri or "", settings.mongodb_database), *check_s3(settings, key)]
    show_findings(findings, as_json=as_json)
    sys.exit(any(finding.result is Result.FAILED for finding in findings))
