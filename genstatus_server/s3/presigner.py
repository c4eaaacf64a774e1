"""Owns the S3 client's life, and turns a finished job into a presigned URL."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from typing import Final
from urllib.parse import quote

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from genstatus_server.model.errors import ServiceUnavailable, StartupError
from genstatus_server.model.jobs import Job
from genstatus_server.s3.credentials import LentCredentials, Load, from_aws_chain
from genstatus_server.s3.signing import UrlSigner

#: Seconds that a signature may take. It is pure computation, unless credentials are being fetched.
SIGNING_SECONDS: Final = 2.5

_REMEMBERED_URLS: Final = 10_000
_DEFAULT_REGION: Final = "us-east-1"


class Presigner:
    """Makes presigned URLs that live `url_ttl` seconds, of files in `bucket` where their job names no other."""

    def __init__(
        self,
        signer: UrlSigner,
        credentials: LentCredentials,
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
        self._urls: dict[Job, tuple[float, str]] = {}

    async def presigned_url(self, job: Job) -> str:
        """A URL of the file of `job`, which is finished, that still has at least half of its life.

        Raises `ServiceUnavailable`.
        """
        url = self.remembered_url(job)
        if url is None:
            signed_at = math.floor(time.time())  # In whole seconds, as it stands in the signature.
            with self._time_signature():
                url, is_lasting = await self._sign(job)
            self._remember(job, signed_at, url, is_lasting=is_lasting)
        return url

    def remembered_url(self, job: Job) -> str | None:
        """The URL that was made for `job`, where it still has at least half of its life."""
        signed_at, url = self._urls.get(job, (float("-inf"), None))
        # The wall clock, because it is what S3 goes by; a clock that was set back makes a URL of the future.
        return url if 0 <= time.time() - signed_at < self._url_ttl / 2 else None

    def url_at_once(self, job: Job) -> str | None:
        """As `presigned_url`, without waiting for anything; None where it cannot be had so."""
        bucket, key = job.bucket or self._bucket, job.key
        url = self.remembered_url(job)
        if url is not None or not bucket or not key or not self._signer.knows(bucket):
            return url
        credentials = self._credentials.at_hand()
        if credentials is not None:
            signed_at, is_lasting = math.floor(time.time()), self._credentials.last(self._url_ttl)
            # What is wrong with it, if anything, is said by who waits for it.
            with self._time_signature(), suppress(BotoCoreError, ClientError):
                url = self._signer.sign_at_once(bucket, key, content_disposition(key), credentials)
            if url is not None:
                self._remember(job, signed_at, url, is_lasting=is_lasting)
        return url

    async def has_credentials(self) -> bool:
        """Whether there are credentials to sign with."""
        try:
            async with asyncio.timeout(SIGNING_SECONDS):
                await self._credentials.get_frozen_credentials()
        except (ServiceUnavailable, TimeoutError):
            return False
        return True

    async def _sign(self, job: Job) -> tuple[str, bool]:
        """A URL, and whether what has signed it outlives it."""
        bucket, key = job.bucket or self._bucket, job.key
        if not bucket or not key:
            raise ServiceUnavailable from ValueError("s3_bucket is not configured, and the job names no bucket")
        try:
            async with asyncio.timeout(SIGNING_SECONDS):
                await self._credentials.get_frozen_credentials()
                # Asked before it is signed: those that have come by then only live longer.
                is_lasting = self._credentials.last(self._url_ttl)
                return await self._signer.sign(bucket, key, content_disposition(key)), is_lasting
        except (BotoCoreError, ClientError, TimeoutError) as cause:
            raise ServiceUnavailable from cause

    def _remember(self, job: Job, signed_at: float, url: str, *, is_lasting: bool) -> None:
        self._urls.pop(job, None)  # So that they stand in the order in which they were signed.
        if is_lasting:
            self._urls[job] = signed_at, url
        if len(self._urls) > _REMEMBERED_URLS:
            del self._urls[next(iter(self._urls))]


def content_disposition(key: str) -> str:
    """The header that has a browser save the file under its own name, the last part of `key` (RFC 6266)."""
    name = "".join(character for character in key.rstrip("/").rsplit("/", 1)[-1] if character.isprintable())
    if not name:
        return "attachment"
    # Browsers do not agree on a backslash and on a percent sign between the quotes.
    plain = re.sub(r"""[^ -~]|["\\%?]""", "_", name)
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"


def _fixed(access_key: str | None, secret_key: str | None) -> Load | None:
    if not access_key or not secret_key:
        return None

    async def load() -> AioCredentials:
        return AioCredentials(access_key, secret_key)

    return load


@asynccontextmanager
async def open_presigner(  # noqa: PLR0913 - all by name: they are options.
    *,
    bucket: str | None,
    region: str | None,
    endpoint_url: str | None,
    url_ttl: int,
    access_key: str | None = None,
    secret_key: str | None = None,
    time_signature: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> AsyncIterator[Presigner]:
    """The signer, with the one S3 client of the process. Without keys, credentials come from the AWS chain.

    A signature is made within the block of `time_signature()`. Raises `StartupError` where the AWS configuration
    cannot be used. Making the client reads botocore's data from disk, for about a quarter of a second: do it before
    serving.
    """
    session = get_session()
    credentials = LentCredentials(_fixed(access_key, secret_key) or from_aws_chain, needed=math.ceil(url_ttl / 2))
    session.register_component("credential_provider", credentials)
    config = AioConfig(
        # Named, because the default is Signature V2 in many regions and for custom endpoints.
        signature_version="s3v4",
        # A custom endpoint has no name per bucket; on AWS the path style is on its way out.
        s3={"addressing_style": "path" if endpoint_url else "virtual"},
        connect_timeout=SIGNING_SECONDS,
        read_timeout=SIGNING_SECONDS,
    )
    async with AsyncExitStack() as stack:
        try:
            session.get_scoped_config()  # A profile that is not there is said at the start.
            client = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=region or session.get_config_variable("region") or _DEFAULT_REGION,
                    endpoint_url=endpoint_url,
                    config=config,
                )
            )
        except (BotoCoreError, ValueError) as error:  # A profile that is not there, a region that is none.
            raise StartupError(f"AWS configuration: {error}") from error
        stack.push_async_callback(credentials.close)
        credentials.fetch_in_time()
        signer = UrlSigner(session, client, url_ttl)
        yield Presigner(signer, credentials, bucket=bucket, url_ttl=url_ttl, time_signature=time_signature)
