"""What `genstatus check` finds out about S3: it signs a URL as the server does, and fetches it on request."""

import asyncio
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, NoCredentialsError

from genstatus_server.admin.database import Finding, Result
from genstatus_server.model.errors import ServiceUnavailable, StartupError
from genstatus_server.model.jobs import GenerationStatus, Job
from genstatus_server.s3.presigner import open_presigner
from genstatus_server.settings import Settings
from genstatus_server.telemetry import log

#: Seconds without a byte after which a download is given up.
_SILENCE: Final = 10
_CHUNK: Final = 1 << 16
_SAMPLE_KEY: Final = "genstatus-check"

#: What to do about an error code of S3's.
_ADVICE: Final = {
    "AccessDenied": "the role needs s3:GetObject on the file, and kms:Decrypt where a KMS key encrypts it;"
    " without s3:ListBucket, S3 also answers so where the file does not exist",
    "AuthorizationHeaderMalformed": "set s3_region to the region of the bucket",
    "AuthorizationQueryParametersError": "set s3_region to the region of the bucket",
    "ExpiredToken": "the session token of the credentials has expired",
    "InvalidAccessKeyId": "this access key does not exist there: check the credentials and s3_endpoint_url",
    "NoSuchBucket": "check s3_bucket",
    "NoSuchKey": "name a file that exists",
    "PermanentRedirect": "set s3_region to the region of the bucket",
    "RequestTimeTooSkewed": "set this machine's clock",
    "SignatureDoesNotMatch": "check the secret key; a proxy in between must not change the host or the path",
}


def check_s3(settings: Settings, key: str | None) -> Iterator[Finding]:
    """The findings about signing, and about fetching the file `key` where one is named."""
    yield _bucket(settings)
    try:
        yield _region(settings)
        with _without_log():
            url = asyncio.run(_sign(settings, key or _SAMPLE_KEY))
    except (ServiceUnavailable, StartupError, BotoCoreError) as error:
        yield Finding(
            "signature", Result.FAILED, _explain(error), "docs/deployment.md, S3, says where credentials come from"
        )
        return
    place = urlsplit(url)
    yield Finding("signature", Result.OK, f"signed for {place.scheme}://{place.netloc}{place.path}")
    if key is None:
        yield Finding(
            "download",
            Result.SKIPPED,
            "signing needs no connection",
            "--download KEY fetches a file: that alone shows rights",
        )
    else:
        yield _download(url)


def _bucket(settings: Settings) -> Finding:
    if settings.s3_bucket:
        return Finding("bucket", Result.OK, settings.s3_bucket)
    advice = "set s3_bucket, unless every job names its bucket"
    return Finding("bucket", Result.WARNING, "none is configured", advice)


def _region(settings: Settings) -> Finding:
    region = settings.s3_region or get_session().get_config_variable("region")
    if region:
        return Finding("region", Result.OK, region)
    return Finding("region", Result.WARNING, "none is configured: us-east-1 is taken", "set s3_region")


@contextmanager
def _without_log() -> Iterator[None]:
    """No log records while the block lasts: the findings say what went wrong."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        yield
    finally:
        structlog.configure(**before)


async def _sign(settings: Settings, key: str) -> str:
    async with open_presigner(
        bucket=settings.s3_bucket or "bucket",
        region=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url,
        addressing_style=settings.s3_addressing_style,
        url_ttl=settings.url_ttl,
    ) as presigner:
        return await presigner.presigned_url(Job(job_id=None, generation_status=GenerationStatus.FINISHED, key=key))


def _explain(error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, NoCredentialsError):
        return "the AWS chain has no credentials"
    if isinstance(cause, TimeoutError):
        return "credentials did not come in time"
    return log.scrub(" ".join(str(cause).split()))[:200]


def _download(url: str) -> Finding:
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE) as answer:  # noqa: S310 - http or https: the endpoint's
            size = sum(map(len, iter(lambda: answer.read(_CHUNK), b"")))
            return Finding("download", Result.OK, f"{size} bytes, {answer.headers.get('Content-Type')}")
    except urllib.error.HTTPError as error:
        with error:
            code = re.search(rb"<Code>(\w+)</Code>", error.read(_CHUNK))
        name = code[1].decode() if code else ""
        return Finding("download", Result.FAILED, f"S3 answers {error.code} {name}".strip(), _ADVICE.get(name, ""))
    except OSError as error:
        return Finding("download", Result.FAILED, _explain_network(error), "check s3_endpoint_url, and the way to it")


def _explain_network(error: OSError) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLError):
        return "the TLS certificate is not accepted"
    if isinstance(reason, TimeoutError):
        return f"no byte for {_SILENCE} s"
    return (reason.strerror if isinstance(reason, OSError) else None) or "the connection fails"
