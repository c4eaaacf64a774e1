"""The S3 client, and what an upload consists of: the place of the file, its arguments, and its parts.

A part has at least 5 MiB but for the last one, and there are at most 10,000.
"""

import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final
from weakref import WeakSet

from genstatus_server.jobs_writer.changes import File
from genstatus_server.model.jobs import BUCKET, BUCKET_TEXT

#: The setting of boto3's that says when a checksum is sent.
_CHECKSUM: Final = "request_checksum_calculation"
_LONGEST_KEY: Final = 1024
#: What an upload sets itself.
_OWN_ARGS: Final = frozenset({"Bucket", "Key", "Body", "ContentLength", "ContentMD5", "MultipartUpload", "UploadId"})
#: A file by its path, or a stream open for reading bytes, which need not be seekable.
Source = str | PathLike[str] | BinaryIO

_MIB: Final = 2**20
PART_SIZE: Final = 8 * _MIB
_LARGEST_PART: Final = 4096 * _MIB  # S3 allows 5 GiB.
_MOST_PARTS: Final = 10_000
_EQUAL_PARTS: Final = 5_000
_PARTS_PER_SIZE: Final = 500


def s3_client(region: str | None = None, endpoint_url: str | None = None, **options: Any) -> Any:
    """A client of boto3's; credentials, and what is not given, come from the AWS chain.

    It signs with Signature V4. On an endpoint that is not AWS's own, by `endpoint_url` or by the AWS configuration
    (AWS_ENDPOINT_URL_S3), it addresses buckets as paths and sends checksums only where S3 demands them, unless the AWS
    configuration says otherwise. `options` are those of botocore's Config, such as timeouts.
    """
    import boto3  # noqa: PLC0415 - of the extra `worker`, which a caller with an own client does not need
    import botocore.session  # noqa: PLC0415 - the same
    from botocore.config import Config  # noqa: PLC0415 - the same

    # Not boto3's default one, which keeps the credentials that it found first.
    configuration = botocore.session.get_session()
    session = boto3.session.Session(botocore_session=configuration)

    def made(**settings: Any) -> Any:
        config = Config(**({"signature_version": "s3v4"} | options | settings))
        return session.client("s3", region_name=region, endpoint_url=endpoint_url, config=config)

    client = made()
    if client.meta.endpoint_url == made(ignore_configured_endpoint_urls=True).meta.endpoint_url and not endpoint_url:
        return client
    settings: dict[str, Any] = {}
    if (client.meta.config.s3 or {}).get("addressing_style", "auto") == "auto":
        settings["s3"] = (options.get("s3") or {}) | {"addressing_style": "path"}
    configured = os.environ.get(f"AWS_{_CHECKSUM.upper()}") or configuration.get_scoped_config().get(_CHECKSUM)
    if not (configured or options.get(_CHECKSUM)):
        # Over TLS boto3 sends a checksum after the body, in a form that many S3-compatible servers do not know.
        settings[_CHECKSUM] = "when_required"
    return made(**settings)


def checked_bucket(bucket: str) -> str:
    """A bucket for which the server can sign URLs. Raises ValueError for anything else."""
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"bucket must be {BUCKET_TEXT}, not {bucket!r}")
    return bucket


def checked_place(bucket: str | None, key: str) -> File:
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


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, int | None]]:
    """The stream, and its size where that is known."""
    if not isinstance(source, str | PathLike):
        yield source, None
        return
    with Path(source).open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        yield stream, status.st_size if stat.S_ISREG(status.st_mode) else None


def part_sizes(size: int | None) -> Iterable[int]:
    """The sizes of the parts, in bytes, for a file of `size` bytes, or of any up to 5 TiB.

    All are equal where the size is known, and where it is not, those up to 39 GiB: some S3-compatible servers demand
    it of all but the last.
    """
    if size is not None:
        return itertools.repeat(max(PART_SIZE, (size // (_MOST_PARTS * _MIB) + 1) * _MIB), _MOST_PARTS)
    doublings = (max(0, number - _EQUAL_PARTS + _PARTS_PER_SIZE) // _PARTS_PER_SIZE for number in range(_MOST_PARTS))
    return (min(PART_SIZE << doubling, _LARGEST_PART) for doubling in doublings)


def parts(stream: BinaryIO, sizes: Iterable[int], poll: Callable[[], object]) -> Iterator[bytes]:
    """What `stream` gives, in parts of exactly these `sizes` but for the last. An empty stream has one empty part.

    `poll` is called before each read. Raises ValueError where the stream says that it stands at its end already.
    """
    buffer, is_first = bytearray(), True
    for size in sizes:
        while len(buffer) < size:
            poll()
            data = _read(stream, size - len(buffer))
            if not data:
                if is_first and not buffer:
                    _refuse_end(stream)
                if is_first or buffer:
                    yield bytes(buffer)
                return
            buffer += data
        yield _taken(buffer, size)
        is_first = False
    raise ValueError(f"the file is too large for S3: it takes more than {_MOST_PARTS} parts")


def _taken(buffer: bytearray, size: int) -> bytes:
    """The first `size` bytes, which are taken out."""
    with memoryview(buffer) as view, view[:size] as part:
        taken = part.tobytes()
    del buffer[:size]
    return taken


def _read(stream: BinaryIO, size: int) -> bytes:
    data: object = stream.read(size)
    if data is None:
        raise BlockingIOError("the stream is in non-blocking mode, and has no bytes at the moment")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"the stream must give bytes, not {type(data).__name__}: open it in binary mode")
    return bytes(data)


def _refuse_end(stream: BinaryIO) -> None:
    """A stream that was written and not rewound is a mistake; one that cannot tell its position may be empty."""
    try:
        position = stream.tell()
    except (AttributeError, OSError):
        return
    if position:
        raise ValueError(f"the stream stands at its end, {position} bytes in: call seek(0) before the upload")
