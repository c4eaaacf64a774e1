"""Sends a file to S3: in parts, several at once, each tried again where need be.

By boto3's transfer manager, also for async workers, in a thread: it bounds its memory and clears away the parts of
an upload that fails, and aiobotocore has nothing like it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from genstatus_server.jobs_writer.changes import File

#: A file by its path, or a stream open for reading bytes, which need not be seekable.
Source = str | PathLike[str] | BinaryIO
#: Is told how many bytes have been sent so far. It is called from other threads, one call at a time.
Progress = Callable[[int], object]


def s3_client(region: str | None = None, endpoint_url: str | None = None, **options: Any) -> Any:
    """A client of boto3's; credentials, and what is not given, come from the AWS chain.

    It signs with Signature V4 and addresses buckets as the server does: as paths on an `endpoint_url`. `options` are
    those of botocore's Config, such as timeouts.
    """
    import boto3  # noqa: PLC0415 - of the extra `worker`; whoever hands in a client of their own may go without
    from botocore.config import Config  # noqa: PLC0415 - the same

    compatible: dict[str, Any] = {}
    if endpoint_url:
        # Over TLS boto3 sends a checksum after the body, in a form that many S3-compatible servers do not know.
        compatible = {"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"}
    config = Config(signature_version="s3v4", **(compatible | options))
    return boto3.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)


class Sent:
    """Counts the bytes and tells `progress`; what `check` raises ends the upload.

    Bytes that have to be sent again are taken off first: boto3 gives a negative number.
    """

    def __init__(self, progress: Progress | None, check: Callable[[], object]) -> None:
        self.count = 0
        self.check = check
        self._progress = progress
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        self.check()
        with self._lock:
            self.count += count
            if self._progress is not None:
                self._progress(self.count)


def send(client: Any, source: Source, file: File, content_type: str, sent: Sent) -> int:
    """Upload `source`, and give the number of bytes. What `sent` raises on the way ends the upload."""
    with _opened(source) as stream:
        read = _Checked(stream, sent.check)
        client.upload_fileobj(read, file.bucket, file.key, ExtraArgs={"ContentType": content_type}, Callback=sent)
    return sent.count


class _Checked:
    """A stream that `check` ends: boto3 reads a stream to its end, also where the upload has failed before."""

    def __init__(self, stream: BinaryIO, check: Callable[[], object]) -> None:
        self._stream, self._check = stream, check

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if not isinstance(source, str | PathLike):
        yield source
        return
    with Path(source).open("rb") as stream:
        yield stream
