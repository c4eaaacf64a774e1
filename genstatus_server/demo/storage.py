"""Where the demo's files go: a bucket of an S3-compatible server, through a client that blocks."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import botocore.session
from botocore.config import Config

#: Seconds; the S3 is on the same machine.
_TIMEOUT = 2


@dataclass(frozen=True)
class Storage:
    """A bucket and how to reach it. Without keys the usual AWS chain is asked, AWS_* of the environment first."""

    bucket: str
    region: str | None = None
    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)

    @contextmanager
    def opened(self) -> Iterator["Files"]:
        """The bucket, opened for uploads while the block lasts."""
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if self.endpoint_url else "virtual"},
            connect_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
            retries={"total_max_attempts": 2},
            proxies={} if self.endpoint_url else None,  # None: as the environment says; loopback needs none.
        )
        client: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )
        with closing(client):
            yield Files(client, self.bucket)


@dataclass(frozen=True)
class Files:
    """Uploads to one bucket."""

    client: Any
    bucket: str

    def upload(self, key: str, body: bytes) -> None:
        """Store a CSV file. Raises what botocore raises (BotoCoreError, ClientError)."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="text/csv")
