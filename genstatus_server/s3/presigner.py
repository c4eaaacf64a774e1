"""Turns a finished job into a presigned URL, and hands the same URL out again while it is young.

The S3 client's `generate_presigned_url` resolves the endpoint and builds a whole request for each call. `UrlSigner`
calls it once per bucket, for a sample key, and caches the base URL, service and region. Each URL then needs only
botocore's signer.
"""

import math
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, InvalidConfigError
from cachetools import LRUCache

from genstatus_server.model.errors import ServiceUnavailable, StartupError
from genstatus_server.model.jobs import DEFAULT_FAILURE, GenerationStatus, Job
from genstatus_server.s3.credentials import RefreshingCredentials, aws_chain
from genstatus_server.telemetry import log

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_CACHED_URLS: Final = 10_000
#: Buckets whose place is cached; they come out of job documents.
_MOST_BUCKETS: Final = 1000
_SAMPLE_KEY: Final = "sample"
#: For the client, which sends nothing and signs only the samples.
_NO_KEY: Final = "none"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the objects of a bucket are (a URL that ends with a slash), and what their URLs are signed for."""

    url: str
    service: str
    region: str


class UrlSigner:
    """Signs URLs of objects. The S3 client's own credentials are not used."""

    def __init__(self, client: "S3Client") -> None:
        self._client = client
        #: Where the objects of a bucket are, for the buckets used last.
        self.places = LRUCache[str, Place](_MOST_BUCKETS)

    async def sign(
        self, bucket: str, key: str, disposition: str, expires: int, credentials: ReadOnlyCredentials
    ) -> str:
        """A presigned GET URL that lives `expires` seconds; its answer has `disposition` as its Content-Disposition.

        Raises botocore's `BotoCoreError` where `bucket` cannot be signed for.
        """
        place = await self.resolve(bucket)
        url = place.url + quote(key, safe="/~")
        request = AWSRequest("GET", url, params={"response-content-disposition": disposition})
        S3SigV4QueryAuth(credentials, place.service, place.region, expires=expires).add_auth(request)
        return str(request.url)

    async def resolve(self, bucket: str) -> Place:
        """Where the objects of `bucket` are. Raises as `sign` does; it never suspends for I/O."""
        place = self.places.get(bucket)
        if place is None:
            place = self.places[bucket] = await self._resolve(bucket)
        return place

    async def _resolve(self, bucket: str) -> Place:
        sample = {"Bucket": bucket, "Key": _SAMPLE_KEY}
        url = urlsplit(await self._client.generate_presigned_url("get_object", Params=sample))
        _, _, region, service, _ = parse_qs(url.query)["X-Amz-Credential"][0].rsplit("/", 4)
        return Place(f"{url.scheme}://{url.netloc}{url.path.removesuffix(_SAMPLE_KEY)}", service, region)


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


@asynccontextmanager
async def open_signer(
    *, region: str | None, endpoint_url: str | None, addressing_style: str
) -> AsyncIterator[UrlSigner]:
    """The signer, with the one S3 client of the process. The AWS configuration supplies what is None.

    Raises `StartupError` where the configuration is invalid. Making the client reads botocore's data from disk,
    for about a quarter of a second: do it before serving.
    """
    async with AsyncExitStack() as stack:
        try:
            session = get_session()
            style = await _resolve_style(session, addressing_style, region, endpoint_url)
            client = await stack.enter_async_context(_s3_client(session, region, endpoint_url, style))
        except Exception as error:  # botocore raises its own errors, ValueError, TypeError and KeyError.
            raise StartupError(f"AWS configuration: {' '.join(str(error).split())}") from error
        if not (region or session.get_config_variable("region")):
            log.warning("s3_region_missing", hint="set s3_region; URLs are signed for us-east-1")
        yield UrlSigner(client)


async def _resolve_style(session: AioSession, style: str, region: str | None, endpoint_url: str | None) -> str:
    """For `auto`: what the AWS configuration says, else `path` with a custom endpoint, which has no host per bucket."""
    settings = session.get_scoped_config().get("s3", {})
    if not isinstance(settings, dict):
        raise InvalidConfigError(error_msg=f"s3 = {settings} is no section; its settings stand indented below s3 =")
    if style == "auto":
        style = settings.get("addressing_style", style)
    if style != "auto":  # botocore's own `auto` names hosts without their region.
        return style
    if endpoint_url:
        return "path"
    async with (
        _s3_client(session, region) as configured,
        _s3_client(session, region, ignore_configured_endpoint_urls=True) as plain,
    ):
        return "virtual" if configured.meta.endpoint_url == plain.meta.endpoint_url else "path"


def _s3_client(
    session: AioSession,
    region: str | None,
    endpoint_url: str | None = None,
    style: str = "virtual",
    *,
    ignore_configured_endpoint_urls: bool | None = None,
) -> "AbstractAsyncContextManager[S3Client]":
    config = AioConfig(
        # Named, because the default is Signature V2 in many regions and for custom endpoints.
        signature_version="s3v4",
        s3={"addressing_style": style},
        ignore_configured_endpoint_urls=ignore_configured_endpoint_urls,
    )
    return session.create_client(
        "s3",
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=_NO_KEY,
        aws_secret_access_key=_NO_KEY,
        config=config,
    )
