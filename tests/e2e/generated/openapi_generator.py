"""Calls the server with what OpenAPI Generator's `python` generated."""

import json
import sys
from typing import Any

from openapi_client import ApiClient, ApiException, Configuration, StatusApi


def api(token: str) -> StatusApi:
    return StatusApi(ApiClient(Configuration(host=sys.argv[1], api_key={"session_token": token})))


def check(file_type: str, token: str = "owner", submission_id: int = 1, **more: Any) -> dict[str, Any]:
    try:
        response = api(token).check_generation_status_with_http_info(submission_id, file_type, **more)
    except ApiException as error:
        return {"code": error.status, "message": error.data.message}
    told = response.data
    return {
        "code": response.status_code,
        "job_id": told.job_id,
        "status": told.status,
        "size": told.size,
        "start": told.start,
        "message": told.message,
        "generated_at": told.generated_at,
        "has_url": told.url.startswith("http"),
    }


def check_several(*file_types: str) -> dict[str, Any]:
    response = api("owner").generation_statuses_with_http_info(1, list(file_types))
    return {"code": response.status_code, "statuses": [file.status for file in response.data.files]}


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
