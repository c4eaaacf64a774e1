"""Sends a file to S3: in parts of a legal size, several at once, in bounded memory, and never for longer than wanted.

boto3's transfer manager is not used, for two reasons. It treats a short read as the end of the stream, or sends it as
a part that is too small for S3. And while S3 hangs, neither the upload nor the interpreter can end, because its threads
are joined. Here the caller's thread reads the stream, and daemon threads send the requests. So a signal, a lost lease
or a cancelled task ends the upload.
"""

import io
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Final, TypeVar

from genstatus_server.jobs_writer.changes import File
from genstatus_server.jobs_writer.outage import NotFromS3
from genstatus_server.jobs_writer.s3 import (
    PART_SIZE,
    Source,
    check_access_point,
    checked_args,
    clients,
    members,
    opened,
    part_sizes,
    parts,
)

T = TypeVar("T")

#: Called after each part with the number of bytes sent so far.
Progress = Callable[[int], object]

#: Seconds within which a stopped upload ends, whatever S3 does.
STOP_SECONDS: Final = 5.0

_log = logging.getLogger("genstatus_server.jobs_writer")

#: What an answer of S3 has, and that of something between here and S3 has not.
_MEMBERS: Final = {"put_object": "ETag", "upload_part": "ETag", "create_multipart_upload": "UploadId"}
_CHECK_SECONDS: Final = 0.2
_PARTS_AT_ONCE: Final = 4
_BYTES_AT_ONCE: Final = _PARTS_AT_ONCE * PART_SIZE


def upload(  # noqa: PLR0913 - options, by keyword
    client: Any,
    source: Source,
    file: File,
    args: Mapping[str, Any],
    *,
    check: Callable[[], object],
    progress: Progress | None = None,
    on_refused: Callable[[Exception], object] = lambda _: None,
) -> int:
    """Upload `source` to `file`, and give the number of bytes. `args` are boto3's ExtraArgs.

    `check` and `progress` are called in this thread, `check` several times a second unless a read blocks. An exception
    from `check`, `progress` or a signal handler ends the upload within `STOP_SECONDS`. The parts that were sent are
    removed if S3 answers in that time.

    `on_refused` is called, in another thread, with the error of each request. What is raised may be that error.

    A stream is read from its current position until a read returns no bytes. Raises ValueError if the first read
    returns none and the position is not 0. A stream that cannot tell its position is then taken for an empty file. Also
    raises the errors of reading, boto3 and botocore.
    """
    check_access_point(client, file)
    clients.prepare(client)
    transfer = _Transfer(client, file, args, check, progress, on_refused=on_refused)
    try:
        with opened(source) as (stream, size):
            return transfer.send(parts(stream, part_sizes(size), transfer.poll))
    except BaseException:
        transfer.stop()
        raise


def in_daemon_thread(function: Callable[[], T]) -> "Future[T]":
    """Call `function` in a separate thread, which does not keep the program from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - the caller of `result` raises it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="s3-upload", daemon=True).start()
    return future


def _checked(operation: str, reply: Mapping[str, Any]) -> Mapping[str, Any]:
    if not reply.get(_MEMBERS.get(operation, "ResponseMetadata")):
        raise NotFromS3(f"the answer to {operation} is not one of S3's")
    return reply


class _Stopped(Exception):
    """Ends the threads of a stopped upload."""


class _Body(io.BytesIO):
    """The body of a request that ends, and is not tried again, once the upload is stopped."""

    def __init__(self, data: bytes, stopped: threading.Event) -> None:
        super().__init__(data)
        self._stopped = stopped

    def read(self, size: int | None = -1, /) -> bytes:
        if self._stopped.is_set():
            raise _Stopped
        return super().read(size)


def _popped(ahead: deque[bytes], pieces: Iterable[bytes]) -> Iterator[bytes]:
    """`ahead` and then `pieces`; none is kept."""
    while ahead:
        yield ahead.popleft()
    yield from pieces


class _Transfer:
    """The requests of one upload. Only `_clear_away`, and the requests, run in other threads."""

    def __init__(  # noqa: PLR0913 - as `upload`
        self,
        client: Any,
        file: File,
        args: Mapping[str, Any],
        check: Callable[[], object],
        progress: Progress | None,
        *,
        on_refused: Callable[[Exception], object],
    ) -> None:
        self._client, self._check, self._progress, self._on_refused = client, check, progress, on_refused
        self._place = {"Bucket": file.bucket, "Key": file.key}
        self._args = checked_args(client, args)
        self._stopped = threading.Event()
        self._started: list[Future[Any]] = []
        self._created: Future[Any] | None = None
        self._upload_id = ""
        self._running: dict[Future[Any], tuple[int, int]] = {}  # Number and size of each part that is on its way.
        self._parts: dict[int, dict[str, Any]] = {}
        self._sent = 0

    def send(self, pieces: Iterator[bytes]) -> int:
        ahead = deque(itertools.islice(pieces, 2))
        if len(ahead) > 1:
            self._send_parts(_popped(ahead, pieces))
        else:
            size, body = len(ahead[0]), _Body(ahead[0], self._stopped)
            self._result(self._request("put_object", self._args_of("PutObject"), Body=body))
            self._count(size)
        return self._sent

    def poll(self) -> None:
        """Raise what ends the upload: what the caller's check raises, or the error of a part."""
        self._check()
        for future in [future for future in self._running if future.done()]:
            number, size = self._running.pop(future)
            sums = {name: value for name, value in future.result().items() if name.startswith("Checksum")}
            self._parts[number] = {"PartNumber": number, "ETag": future.result()["ETag"]} | sums
            self._count(size)

    def stop(self) -> None:
        """Stop, and remove the sent parts. After `STOP_SECONDS`, the removal goes on in the background."""
        self._stopped.set()
        cleared = in_daemon_thread(self._clear_away)
        wait([cleared], STOP_SECONDS)
        error = cleared.exception() if cleared.done() else TimeoutError()
        if error is not None:
            _log.warning("parts of an upload to %s were not cleared away: %s", self._place["Key"], type(error).__name__)

    def _clear_away(self) -> None:
        wait(self._started)  # A part that arrives after the end of its upload would stay.
        if self._created is not None and self._created.exception() is None:
            self._upload_id = self._created.result()["UploadId"]
            self._request("abort_multipart_upload", self._upload_args("AbortMultipartUpload")).result()

    def _send_parts(self, pieces: Iterable[bytes]) -> None:
        self._created = self._request("create_multipart_upload", self._creation_args())
        self._upload_id = self._result(self._created)["UploadId"]
        args = self._upload_args("UploadPart")
        for number, data in enumerate(pieces, 1):
            size = len(data)
            self._wait_for_fewer_than(max(1, min(_PARTS_AT_ONCE, _BYTES_AT_ONCE // size)))
            request = self._request("upload_part", args, PartNumber=number, Body=_Body(data, self._stopped))
            self._running[request] = number, size
            del data  # Not kept while the next part is read.
        self._wait_for_fewer_than(1)
        done = {"Parts": [self._parts[number] for number in sorted(self._parts)]}
        args = self._upload_args("CompleteMultipartUpload")
        self._result(self._request("complete_multipart_upload", args, MultipartUpload=done))

    def _wait_for_fewer_than(self, count: int) -> None:
        while len(self._running) >= count:
            wait(self._running, _CHECK_SECONDS, FIRST_COMPLETED)
            self.poll()

    def _result(self, future: "Future[Any]") -> Any:
        while not wait([future], _CHECK_SECONDS).done:
            self._check()
        return future.result()

    def _request(self, operation: str, args: Mapping[str, Any], **more: Any) -> "Future[Any]":
        method, request = getattr(self._client, operation), {**self._place, **args, **more}

        def send() -> Any:
            try:
                return _checked(operation, method(**request))
            except Exception as error:
                if not self._stopped.is_set():
                    self._on_refused(error)
                raise

        future = in_daemon_thread(send)
        self._started = [other for other in self._started if not other.done()] + [future]
        return future

    def _count(self, size: int) -> None:
        self._sent += size
        if self._progress is not None:
            self._progress(self._sent)

    def _creation_args(self) -> dict[str, Any]:
        """It names the algorithm, too: S3 refuses parts whose checksum was not announced."""
        args, whole = self._args_of("CreateMultipartUpload"), self._whole_checksum()
        if whole is not None:
            return args | {"ChecksumType": "FULL_OBJECT", "ChecksumAlgorithm": whole.removeprefix("Checksum")}
        if self._client.meta.config.request_checksum_calculation == "when_supported":
            return {"ChecksumAlgorithm": "CRC32"} | args
        return args

    def _upload_args(self, operation: str) -> dict[str, Any]:
        """Of the caller's arguments those that `operation` takes as well, and which upload it belongs to."""
        args = self._args_of(operation) | {"UploadId": self._upload_id}
        if operation == "UploadPart":
            args.pop(self._whole_checksum() or "", None)
        return args

    def _args_of(self, operation: str) -> dict[str, Any]:
        taken = members(self._client, operation)
        return {name: value for name, value in self._args.items() if name in taken}

    def _whole_checksum(self) -> str | None:
        """The argument that gives a checksum of the whole file."""
        settings = {"ChecksumAlgorithm", "ChecksumType"}
        return next((name for name in self._args if name.startswith("Checksum") and name not in settings), None)
