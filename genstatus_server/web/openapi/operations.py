"""What operators and their machines ask."""

from typing import Final

from genstatus_server.telemetry import metrics
from genstatus_server.web.openapi.answers import Object, Routes, answer, ref

READINESS: Final[Object] = {
    "type": "object",
    "properties": {
        "mongodb": {"type": "string", "enum": ["ok", "down"]},
        "change_stream": {"type": "string", "enum": ["live", "polling", "down"]},
        "signer": {"type": "string", "enum": ["ok", "no credentials"]},
        "server": {"type": "string", "enum": ["draining"]},
    },
    "required": ["mongodb", "change_stream", "signer"],
}
LIVENESS: Final[Object] = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": ["ok"]}},
    "required": ["status"],
}
_READY: Final = {"mongodb": "ok", "change_stream": "live", "signer": "ok"}
_DOWN: Final = _READY | {"mongodb": "down", "change_stream": "down"}

ROUTES: Final[Routes] = {
    "/livez": (
        "livez",
        {"summary": "Whether the process runs."},
        {"200": answer("It runs.", ref("Liveness"), {"ok": {"status": "ok"}})},
    ),
    "/readyz": (
        "readyz",
        {"summary": "Whether requests can be answered, and if not, which part fails."},
        {
            "200": answer("They can.", ref("Readiness"), {"ready": _READY}),
            "503": answer("They cannot.", ref("Readiness"), {"down": _DOWN}),
        },
    ),
    "/metrics": (
        "metrics",
        {"summary": "Everything that is counted, for Prometheus."},
        {
            "200": answer(
                "Prometheus' text format.",
                {"type": "string"},
                {"held": "genstatus_held_requests 3.0\n"},
                content_types=[metrics.CONTENT_TYPE],
            )
        },
    ),
}
