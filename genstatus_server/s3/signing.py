"""Where the objects of a bucket are, and the signature of their URLs.

The S3 client's `generate_presigned_url` resolves the endpoint and builds a whole request for each call. This module
calls it once per bucket, for a sample key, and caches the base URL, service and region. Each URL then needs only
botocore's signer.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import InvalidConfigError
from cachetools import LRUCache

from genstatus_server.model.errors import StartupError
from genstatus_server.telemetry import log

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

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
