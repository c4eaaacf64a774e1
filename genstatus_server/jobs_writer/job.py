"""One job in a worker's hand, for ordinary programs. `aio_job` is its async twin: it only awaits where this waits."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from genstatus_server.jobs_writer.changes import Change, Lease
from genstatus_server.jobs_writer.errors import LeaseLost
from genstatus_server.jobs_writer.heartbeat import Heartbeat
from genstatus_server.jobs_writer.parts import Source
from genstatus_server.jobs_writer.state import JobState
from genstatus_server.jobs_writer.terms import Terms
from genstatus_server.jobs_writer.transfer import Progress, upload


class JobHandle(JobState):
    """A job that was requested or claimed. Every method that writes raises `LeaseLost` where it is not held any more.

    As a context manager it starts the job where that has not been done, and brings it to an end: a file that was
    uploaded is finished; an exception marks the job failed, with a text for callers, and goes on; a worker that is
    told to stop (KeyboardInterrupt, SystemExit) gives the job back.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        terms: Terms,
        lease: Lease | None,
        jobs: Collection[dict[str, Any]],
        s3: Callable[[], Any],
    ) -> None:
        super().__init__(document, terms, lease)
        self._jobs, self._s3 = jobs, s3
        if self._is_held:
            self._keep()

    def start(self) -> None:
        """Begin the generation that was requested: the job is `running`, and held."""
        if self._is_held:
            return
        self._started(self._jobs.find_one_and_update(*self._starting(), return_document=ReturnDocument.AFTER))
        self._keep()

    def upload(  # noqa: PLR0913 - options, by keyword
        self,
        source: Source,
        bucket: str | None = None,
        key: str | None = None,
        *,
        content_type: str = "text/csv",
        extra_args: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Send a file, by its path or as a stream of bytes, to S3; gives the number of bytes.

        `bucket` is the writer's unless named; `key` a place of this attempt's own, ending in the file type.
        `extra_args` are boto3's ExtraArgs, such as `{"ServerSideEncryption": "aws:kms"}`. `progress` is called with the
        bytes sent so far. Raises ValueError for what S3 cannot take, and what boto3 raises.
        """
        file = self._place_of(source, bucket, key)
        self._write(self._begin_upload())
        args = {"ContentType": content_type} | dict(extra_args or {})
        size = upload(self._s3(), source, file, args, check=self.check_lease, progress=progress)
        self._write(self._end_upload(file, size))
        self._is_uploaded, self._sent = True, size
        self._settle(settles=self._is_finished)
        return size

    def finish(self, size: int | None = None, *, bucket: str | None = None, key: str | None = None) -> None:
        """The generation is finished; `size` is in bytes. Callers get the file once it is uploaded too.

        `key` (and `bucket`, unless it is the server's) name a file that was put into S3 by other means than `upload`.
        """
        self._write(self._finishing(size, bucket, key))
        self._is_finished = True
        self._settle(settles=self._is_uploaded or key is not None)

    def fail(self, message: str) -> None:
        """The generation failed; callers read `message`."""
        self._write(self._failing("failed", message))
        self._settle()

    def invalid(self, message: str) -> None:
        """What was asked for cannot be generated; callers read `message`."""
        self._write(self._failing("invalid", message))
        self._settle()

    def release(self) -> None:
        """Give the job back to the queue, for another worker to claim at once."""
        self._write(self._releasing())
        self._settle()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        missing = self._check_result(error)
        try:
            change = self._closing(error)
            if change is not None:
                self._write(change)
        except (PyMongoError, LeaseLost) as trouble:
            if error is None:
                raise
            self._unwritten(trouble)
        finally:
            self._settle()
        if missing is not None:
            raise missing

    def _write(self, change: Change) -> None:
        self._written(self._jobs.update_one(*change).matched_count)

    def _keep(self) -> None:
        self._heartbeat = Heartbeat(self._beat, self._terms.heartbeat_seconds)

    def _beat(self) -> bool:
        return bool(self._jobs.update_one(*self._prolonging()).matched_count)
