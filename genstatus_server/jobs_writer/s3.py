"""The S3 client, the place of a file, and the arguments of an upload: what is checked before anything is sent."""

import os
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final
from weakref import WeakSet

from genstatus_server.jobs_writer.changes import File

_BUCKET: Final = re.compile(r"[a-zA-Z0-9.\-_]{3,255}|arn:[^:\s]+:s3[a-z-]*:[^:\s]*:[^:\s]*:\S+")
_LONGEST_KEY: Final = 1024
#: What an upload sets itself.
_OWN_ARGS: Final = frozenset({"Bucket", "Key", "Body", "ContentLength", "ContentMD5", "MultipartUpload", "UploadId"})


def s3_client(region: str | None = None, endpoint_url: str | None = None, **options: Any) -> Any:
    """A client of boto3's; credentials, and what is not given, come from the AWS chain.

    It signs with Signature V4. On an endpoint that is not AWS's own, by `endpoint_url` or by the AWS configuration
    (AWS_ENDPOINT_URL_S3), it addresses buckets as paths and sends checksums only where S3 demands them. `options`
    are those of botocore's Config, such as timeouts.
    """
    import boto3  # noqa: PLC0415 - of the extra `worker`; whoever hands in a client of their own may go without
    from botocore.config import Config  # noqa: PLC0415 - the same

    session = boto3.session.Session()  # Not boto3's default one, which keeps the credentials that it found first.

    def made(**settings: Any) -> Any:
        config = Config(**({"signature_version": "s3v4"} | settings | options))
        return session.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)

    client = made()
    if client.meta.endpoint_url == made(ignore_configured_endpoint_urls=True).meta.endpoint_url and not endpoint_url:
        return client
    # Over TLS boto3 sends a checksum after the body, in a form that many S3-compatible servers do not know.
    return made(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")


def checked_bucket(bucket: str) -> str:
    """The name of a bucket, or the ARN of an access point. Raises ValueError for anything else."""
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"bucket must be a bucket's name or an access point's ARN, not {bucket!r}")
    return bucket


def checked_file(bucket: str | None, key: str) -> File:
    """Where a file lies. Raises ValueError for what S3 refuses, or what could not be downloaded by its URL."""
    if not key:
        raise ValueError("key must not be empty")
    if not {".", ".."}.isdisjoint(key.split("/")):
        raise ValueError(f"key must have no segment . or ..: HTTP clients take them out of the URL; it is {key!r}")
    if "\0" in key or len(key.encode()) > _LONGEST_KEY:  # A lone surrogate is a ValueError as well.
        raise ValueError(f"key must have no NUL, and at most {_LONGEST_KEY} bytes in UTF-8; it is {key!r:.80}")
    return File(bucket and checked_bucket(bucket), key)


def check_access_point(client: Any, file: File) -> None:
    """Raise ValueError where `file` lies behind an access point, and `client` is not one that can address those."""
    if (file.bucket or "").startswith("arn:") and (client.meta.config.s3 or {}).get("addressing_style") == "path":
        raise ValueError(f"{file.bucket} is an access point: this client addresses buckets as paths, as off AWS")


class Clients:
    """Sees to it that no process uses connections that it has inherited from the one that it was forked from.

    Two processes on one connection get each other's answers, and the bytes of one end up in the other's file.
    """

    def __init__(self) -> None:
        self._start_empty()
        os.register_at_fork(after_in_child=self._start_empty)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()  # Another thread may have held it at the fork.
        self._ready: WeakSet[Any] = WeakSet()

    def prepare(self, client: Any) -> None:
        with self._lock:
            if client not in self._ready:
                client.close()  # Only its idle connections; it opens new ones.
                self._ready.add(client)


clients: Final = Clients()


def checked_args(client: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    operations = ("PutObject", "CreateMultipartUpload", "CompleteMultipartUpload")
    allowed = set[str]().union(*(members(client, operation) for operation in operations)) - _OWN_ARGS
    unknown = args.keys() - allowed
    if unknown:
        raise ValueError(f"extra_args has {', '.join(sorted(unknown))}; S3 takes {', '.join(sorted(allowed))}")
    return dict(args)


def members(client: Any, operation: str) -> Iterable[str]:
    """The names of the parameters of an operation."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    return list(shape.members)
