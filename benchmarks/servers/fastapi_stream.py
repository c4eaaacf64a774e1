"""A peer: FastAPI + PyMongo's asyncio API with a change stream for each held request, under uvicorn.

fastapi_stream.py PORT MONGODB_URI DATABASE
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pymongo import AsyncMongoClient

from benchmarks.servers.peer import PATH, answer, find_job, is_waiting, may_view, open_s3

_, PORT, URI, NAME = sys.argv
#: Without a limit to connections: a stream holds one for as long as it is open.
client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(URI, maxPoolSize=None)
database = client[NAME]
state: dict[str, Any] = {}


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with open_s3() as state["s3"], client:
        yield


app = FastAPI(lifespan=lifespan)


@app.get(PATH)
async def check_generation_status(
    submission_id: int,
    file_type: Literal["D1", "D2", "E", "F"],
    x_session_id: Annotated[str, Header()],
    wait: bool = False,  # noqa: FBT001, FBT002 - FastAPI's way to declare a parameter of the query
    timeout: float = 25,  # noqa: ASYNC109 - the caller's
) -> dict[str, Any]:
    if not await may_view(database, x_session_id, submission_id):
        raise HTTPException(403)
    job = await find_job(database, submission_id, file_type)
    if wait and is_waiting(job):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                job = await settled_job(submission_id, file_type)
    return await answer(state["s3"], job)


async def settled_job(submission_id: int, file_type: str) -> Any:
    """The job once it does not wait any more; the stream stands before the look, so that nothing is missed."""
    match = {"fullDocument.submission_id": submission_id, "fullDocument.file_type": file_type}
    async with await database["jobs"].watch([{"$match": match}], full_document="updateLookup") as stream:
        job = await find_job(database, submission_id, file_type)
        while is_waiting(job):
            job = (await stream.next())["fullDocument"]
    return job


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(PORT), backlog=4096, log_level="warning")
