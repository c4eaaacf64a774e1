"""Calls the server with what openapi-python-client generated."""

import json
import sys
from typing import Any

from generation_client import AuthenticatedClient
from generation_client.api.status import check_generation_status, generation_statuses
from generation_client.models import (
    CheckGenerationStatusFileType as FileType,
)
from generation_client.models import (
    ErrorMessage,
    GenerationStatus,
    GenerationStatuses,
    GenerationStatusesFileTypeItem,
    InvalidRequest,
)


def client(token: str) -> AuthenticatedClient:
    return AuthenticatedClient(sys.argv[1], token, prefix="", auth_header_name="X-Session-ID")


def check(file_type: str, token: str = "owner", submission_id: int = 1, **more: Any) -> dict[str, Any]:
    response = check_generation_status.sync_detailed(
        client=client(token), submission_id=submission_id, file_type=FileType(file_type), **more
    )
    told = response.parsed
    if isinstance(told, ErrorMessage | InvalidRequest):
        return {"code": response.status_code, "message": told.message}
    assert isinstance(told, GenerationStatus)
    return {
        "code": response.status_code,
        "job_id": told.job_id,
        "status": told.status,
        "size": told.size,
        "start": told.start if isinstance(told.start, str) else None,
        "message": told.message,
        "generated_at": told.generated_at,
        "has_url": told.url.startswith("http"),
    }


def check_several(*file_types: str) -> dict[str, Any]:
    response = generation_statuses.sync_detailed(
        client=client("owner"), submission_id=1, file_type=[GenerationStatusesFileTypeItem(each) for each in file_types]
    )
    assert isinstance(response.parsed, GenerationStatuses)
    return {"code": response.status_code, "statuses": [file.status for file in response.parsed.files]}


told = {
    "finished": check("D1"),
    "waiting": check("D2"),
    "invalid": check("F"),
    "failed": check("E"),
    "unknown": check("D1", submission_id=2**62),
    "logged_out": check("D1", token="nobody"),
    "forbidden": check("D1", token="stranger"),
    "several": check_several("F", "D1", "D2"),
    "held": check("D2", wait=True, timeout=50.0),
}
sys.stdout.write(json.dumps(told))
