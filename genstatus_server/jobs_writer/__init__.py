"""Writes job documents right: the library for workers, on pymongo. docs/workers.md tells how.

`JobsWriter` is for ordinary programs, `AsyncJobsWriter` for asyncio. Uploads need the extra `worker`. Nothing of the
server is imported but what a job document is.
"""

from genstatus_server.jobs_writer.aio import AsyncJobHandle, AsyncJobsWriter
from genstatus_server.jobs_writer.errors import (
    GenerationFailed,
    GenerationInvalid,
    LeaseLost,
    NothingUploaded,
    NotInitialized,
)
from genstatus_server.jobs_writer.job import JobHandle
from genstatus_server.jobs_writer.s3 import s3_client
from genstatus_server.jobs_writer.terms import JobEvent
from genstatus_server.jobs_writer.writer import JobsWriter

__all__ = [
    "AsyncJobHandle",
    "AsyncJobsWriter",
    "GenerationFailed",
    "GenerationInvalid",
    "JobEvent",
    "JobHandle",
    "JobsWriter",
    "LeaseLost",
    "NotInitialized",
    "NothingUploaded",
    "s3_client",
]
