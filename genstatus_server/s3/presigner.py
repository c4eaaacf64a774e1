"""Turns a finished job into a presigned URL, and hands the same URL out again while it is young."""

import math
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from botocore.exceptions import BotoCoreError
from cachetools import LRUCache

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.model.jobs import DEFAULT_FAILURE, GenerationStatus, Job
from genstatus_server.s3.credentials import RefreshingCredentials, aws_chain
from genstatus_server.s3.signing import UrlSigner, open_signer
from genstatus_server.telemetry import log

_CACHED_URLS: Final = 10_000


class Presigner:
    """Makes presigned URLs of files in `bucket` where their job names no other.

    They live `url_ttl` seconds, or at least half of it where the credentials that sign them end before.
    """

    def __init__(
        self,
        signer: UrlSigner,
        credentials: RefreshingCredentials,
        *,
        bucket: str | None,
        url_ttl: int,
        time_signature: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._credentials = credentials
        self._signer = signer
        self._bucket = bucket
        self._url_ttl = url_ttl
        self._time_signature = time_signature
        #: By bucket and key: when they were signed, and the URLs. Only those that live for `url_ttl`.
        self.urls = LRUCache[tuple[str | None, str | None], tuple[int, str]](_CACHED_URLS)
        #: Jobs that cannot be signed for, as failed: each is warned of once, however often it is polled.
        self._failed = LRUCache[Job, Job](_CACHED_URLS)

    async def presigned_url(self, job: Job) -> str:
        """A URL of the file of `job`, which is finished, that still has at least half of its life.

        Raises `ServiceUnavailable`.
        """
        signed_at, url = self.urls.get((job.bucket, job.key), (0, ""))
        # Use the wall clock, because S3 does. If it was set back, `signed_at` is in the future: sign again.
        if 0 <= time.time() - signed_at < self._url_ttl / 2:
            return url
        with self._time_signature():
            return await self._sign(job)

    async def signable(self, job: Job) -> Job:
        """`job`, which is finished; or the same as failed where it is in no bucket that can be signed for."""
        if (job.bucket, job.key) in self.urls:
            return job
        if job in self._failed:
            return self._failed[job]
        try:
            await self._signer.resolve(self._bucket_of(job))
        except (BotoCoreError, LookupError) as error:
            log.warning("job_malformed", job_id=job.job_id, problems=[log.cause(error)])
            failed = replace(job, generation_status=GenerationStatus.FAILED, message=DEFAULT_FAILURE)
            return self._failed.setdefault(job, failed)
        return job

    def _bucket_of(self, job: Job) -> str:
        bucket = job.bucket or self._bucket
        if bucket is None:
            raise LookupError("neither upload.bucket nor s3_bucket names a bucket")
        return bucket

    async def has_credentials(self) -> bool:
        """Whether there are credentials to sign with."""
        try:
            await self._credentials.get()
        except ServiceUnavailable:
            return False
        return True

    async def _sign(self, job: Job) -> str:
        credentials = await self._credentials.get()
        is_lasting = self._credentials.valid_for(self._url_ttl)
        signed_at = math.floor(time.time())  # In whole seconds, as it stands in the signature.
        expires = self._url_ttl if is_lasting else self._credentials.needed
        key = job.key or ""  # A job that is finished has one.
        try:
            url = await self._signer.sign(self._bucket_of(job), key, content_disposition(key), expires, credentials)
        except (BotoCoreError, LookupError) as cause:
            raise ServiceUnavailable from cause
        if is_lasting:
            self.urls[job.bucket, job.key] = signed_at, url
        return url


def content_disposition(key: str) -> str:
    """The header that has a browser save the file under its own name, the last part of `key` (RFC 6266)."""
    name = "".join([character for character in key.rstrip("/").rsplit("/", 1)[-1] if character.isprintable()])
    if not name:
        return "attachment"
    # Browsers do not agree on a backslash and on a percent sign between the quotes.
    plain = re.sub(r"""[^ -~]|["\\%?]""", "_", name)
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"


@asynccontextmanager
async def open_presigner(  # noqa: PLR0913 - all by name: they are options.
    *,
    bucket: str | None,
    region: str | None,
    endpoint_url: str | None,
    url_ttl: int,
    addressing_style: str = "auto",
    keys: tuple[str, str] | None = None,
    time_signature: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> AsyncIterator[Presigner]:
    """The presigner. Credentials are an access key and a secret key, or else come from the AWS chain.

    A signature is made within the block of `time_signature()`. Raises `StartupError` where the AWS configuration
    cannot be used.
    """
    if bucket is None:
        log.warning("s3_bucket_missing", hint="set s3_bucket; files whose job names no bucket cannot be downloaded")
    needed = math.ceil(url_ttl / 2) + 1  # One more, because a signature has the time in whole seconds.
    credentials = RefreshingCredentials(aws_chain(region, keys), needed=needed)
    async with open_signer(region=region, endpoint_url=endpoint_url, addressing_style=addressing_style) as signer:
        credentials.refresh()
        try:
            yield Presigner(signer, credentials, bucket=bucket, url_ttl=url_ttl, time_signature=time_signature)
        finally:
            await credentials.close()
