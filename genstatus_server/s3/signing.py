"""Signs the URL of an S3 object without most of what `generate_presigned_url` costs.

That one works out the endpoint and builds a whole request each time. Here it is asked once for a bucket; from then on
only botocore's own signer runs. Where the two do not give the same URL for the same object (another kind of bucket,
another kind of signature), the bucket stays with the costly way.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import NoCredentialsError
from botocore.utils import percent_encode

if TYPE_CHECKING:
    from aiobotocore.session import AioSession
    from types_aiobotocore_s3.client import S3Client

_SAMPLE_KEY: Final = "sample"
#: The buckets that are remembered; they come out of job documents.
_MOST_BUCKETS: Final = 1000
#: Comparisons that are made, because two signatures of different seconds say nothing.
_COMPARISONS: Final = 3


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Where the objects of a bucket are (a URL that ends with a slash), and the host and region to sign for."""

    url: str
    host: str
    region: str


class UrlSigner:
    """Signs URLs that live `lifetime` seconds, with the credentials of `session`."""

    def __init__(self, session: "AioSession", client: "S3Client", lifetime: int) -> None:
        self._session = session
        self._client = client
        self._lifetime = lifetime
        self._buckets: dict[str, _Bucket | None] = {}

    async def sign(self, bucket: str, key: str, disposition: str) -> str:
        """A presigned GET URL whose answer has `disposition` as its Content-Disposition.

        Raises botocore's `BotoCoreError` or `ClientError`.
        """
        if bucket not in self._buckets:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets.clear()
            self._buckets[bucket] = await self._find_out(bucket)
        at_once = self.sign_at_once(bucket, key, disposition, await self._credentials())
        return at_once or await self._sign_costly(bucket, key, disposition)

    def knows(self, bucket: str) -> bool:
        """Whether `sign_at_once` can sign for this bucket."""
        return self._buckets.get(bucket) is not None

    def sign_at_once(self, bucket: str, key: str, disposition: str, credentials: ReadOnlyCredentials) -> str | None:
        """As `sign`, with `credentials`; None where `bucket` is not known yet, or stays with the costly way."""
        known = self._buckets.get(bucket)
        return self._sign_cheaply(known, key, disposition, credentials) if known else None

    async def _find_out(self, bucket: str) -> _Bucket | None:
        for _ in range(_COMPARISONS):
            costly = await self._sign_costly(bucket, _SAMPLE_KEY, "attachment")
            url = urlsplit(costly)
            scope = parse_qs(url.query).get("X-Amz-Credential", [""])[0].split("/")
            if len(scope) != len(("access key", "day", "region", "s3", "aws4_request")):
                return None
            place = f"{url.scheme}://{url.netloc}{url.path.removesuffix(_SAMPLE_KEY)}"
            credentials = await self._credentials()
            host = S3SigV4QueryAuth(credentials, "s3", scope[2]).headers_to_sign(AWSRequest("GET", place))["host"]
            found = _Bucket(place, host, scope[2])
            if self._sign_cheaply(found, _SAMPLE_KEY, "attachment", credentials) == costly:
                return found
        return None

    async def _credentials(self) -> ReadOnlyCredentials:
        credentials = await self._session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return await credentials.get_frozen_credentials()

    async def _sign_costly(self, bucket: str, key: str, disposition: str) -> str:
        return await self._client.generate_presigned_url(
            "get_object",
            Params={"Bucket": bucket, "Key": key, "ResponseContentDisposition": disposition},
            ExpiresIn=self._lifetime,
        )

    def _sign_cheaply(self, bucket: _Bucket, key: str, disposition: str, credentials: ReadOnlyCredentials) -> str:
        request = AWSRequest(
            "GET",
            bucket.url + percent_encode(key, safe="/~"),
            headers={"Host": bucket.host},  # Otherwise it is taken out of the URL, twice.
            params={"response-content-disposition": disposition},
        )
        S3SigV4QueryAuth(credentials, "s3", bucket.region, expires=self._lifetime).add_auth(request)
        return str(request.url)
