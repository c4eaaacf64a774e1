"""What the peers have in common: the same documents, the same access rules, the same answer."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

PATH: Final = "/v1/check_generation_status/"
URL_TTL: Final = 60


def open_s3() -> AbstractAsyncContextManager[Any]:
    """The S3 client that signs."""
    return get_session().create_client(
        "s3",
        region_name=os.environ["AWS_REGION"],
        config=AioConfig(signature_version="s3v4", s3={"addressing_style": "virtual"}),
    )


async def may_view(database: Any, token: str, submission_id: int) -> bool:
    """Three finds: who asks, and whether they may see the submission."""
    session = await database["sessions"].find_one({"_id": hashlib.sha256(token.encode()).hexdigest()})
    if session is None or session["expires_at"].replace(tzinfo=UTC) < datetime.now(UTC):
        return False
    user = await database["users"].find_one({"_id": session["user_id"]})
    submission = await database["submissions"].find_one({"_id": submission_id})
    if user is None or submission is None:
        return False
    codes = {affiliation.get("cgac_code") for affiliation in user.get("affiliations", [])}
    return submission["user_id"] == user["_id"] or submission["cgac_code"] in codes


async def find_job(database: Any, submission_id: int, file_type: str) -> Mapping[str, Any]:
    """The fourth find."""
    return await database["jobs"].find_one({"submission_id": submission_id, "file_type": file_type}) or {}


def is_waiting(job: Mapping[str, Any]) -> bool:
    return job["status"] in {"waiting", "running"}


async def answer(s3: Any, job: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys as ours, with the URL as the S3 client presigns it."""
    updated_at = job.get("updated_at")
    url = "#"
    if job["status"] == "finished":
        params = {"Bucket": job["upload"]["bucket"], "Key": job["upload"]["key"]}
        url = await s3.generate_presigned_url("get_object", Params=params, ExpiresIn=URL_TTL)
    return {
        "job_id": job["_id"],
        "status": job["status"],
        "file_type": job["file_type"],
        "url": url,
        "size": job.get("size"),
        "start": "",
        "end": "",
        "message": job.get("message", ""),
        "generated_at": updated_at and updated_at.strftime("%m/%d/%Y %H:%M:%S"),
    }
