"""What the answers of all routes are built from, and every header that they may have."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from genstatus_server.hold.holds import WaitResult
from genstatus_server.web.base import ALLOWED_HEADERS, EXPOSED_HEADERS

Object = dict[str, Any]
#: Of each path: the name of its operation, the request, and the answers by HTTP status.
Routes = dict[str, tuple[str, Object, Mapping[str, Object]]]
_METHODS: Final = "GET, HEAD, OPTIONS"
_TEXT: Final = {"type": "string"}
_SECONDS: Final = {"type": "integer", "minimum": 1}
_EXAMPLE_ORIGIN: Final = "https://broker.example.gov"

HEADERS: Final[Mapping[str, tuple[str, Mapping[str, Any], str | int]]] = {
    "X-Request-ID": (
        "The request's id: the caller's own where it sent a sane one.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "0f8fad5bd9cb469fa16570867728950e",
    ),
    "Cache-Control": ("Nothing is to be stored.", {"type": "string", "enum": ["no-store"]}, "no-store"),
    "X-Content-Type-Options": ("The content type is as it says.", {"type": "string", "enum": ["nosniff"]}, "nosniff"),
    "Connection": (
        "`close` while the server drains for shutdown: ask again on a new connection.",
        {"type": "string", "pattern": "^([Cc]lose|[Kk]eep-[Aa]live)$"},
        "close",
    ),
    "Vary": ("`Origin`, where the server has `cors_origins`.", {"type": "string", "enum": ["Origin"]}, "Origin"),
    "Access-Control-Allow-Origin": ("The page's origin, where it is one of `cors_origins`.", _TEXT, _EXAMPLE_ORIGIN),
    "Access-Control-Expose-Headers": (
        "The headers that such a page may read.",
        _TEXT,
        EXPOSED_HEADERS,
    ),
    "Access-Control-Allow-Methods": (
        "To a preflight of such a page.",
        {"type": "string", "enum": [_METHODS]},
        _METHODS,
    ),
    "Access-Control-Allow-Headers": (
        "To a preflight of such a page.",
        _TEXT,
        ALLOWED_HEADERS,
    ),
    "Access-Control-Max-Age": ("To a preflight of such a page.", _SECONDS, 7200),
    "Allow": ("The methods that the path takes.", {"type": "string", "enum": [_METHODS]}, _METHODS),
    "Retry-After": (
        "The seconds after which to ask again, on every `waiting`, every hold that came to nothing, and every 503.",
        _SECONDS,
        5,
    ),
    "X-Wait-Result": (
        "Why a request with `wait` is answered. `deadline`: repeat it at once; any other: after `Retry-After`.",
        {"type": "string", "enum": [result.value for result in WaitResult if result is not WaitResult.GONE]},
        "settled",
    ),
    "Preference-Applied": (
        "The hold's length in force, in seconds, where `Prefer` requested a hold.",
        {"type": "string", "pattern": r"^wait=[0-9.e+-]+$"},
        "wait=25",
    ),
    "ETag": (
        "Another one whenever callers can see another answer; the signatures in the URLs do not count.",
        {"type": "string", "pattern": '^W/"[0-9a-f]{32}"$'},
        'W/"0123456789abcdef0123456789abcdef"',
    ),
    "Content-Security-Policy": (
        "What the page may load: nothing but its own files.",
        _TEXT,
        "default-src 'none'; script-src 'self'",
    ),
    "Referrer-Policy": (
        "What the page tells other servers: nothing.",
        {"type": "string", "enum": ["no-referrer"]},
        "no-referrer",
    ),
}
#: What all answers may carry; a preflight's; a page's.
HEADERS_OF_EVERY_ANSWER: Final = (
    "X-Request-ID",
    "Cache-Control",
    "X-Content-Type-Options",
    "Connection",
    "Vary",
    "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers",
)
PREFLIGHT: Final = ("Allow", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age")
PAGE: Final = ("Content-Security-Policy", "Referrer-Policy")


def answer(
    description: str,
    schema: object = None,
    examples: Mapping[str, object] | None = None,
    *,
    headers: Iterable[str] = (),
    content_types: Iterable[str] = ("application/json",),
) -> Object:
    """One answer; without a schema, it has no body."""
    made: Object = {
        "description": description,
        "headers": {name: name for name in (*HEADERS_OF_EVERY_ANSWER, *headers)},
    }
    if schema is not None:
        shown = {name: {"value": value} for name, value in (examples or {}).items()}
        made["content"] = {each: {"schema": schema, "examples": shown} for each in content_types}
    return made


def error(description: str, message: str, *, headers: Iterable[str] = ()) -> Object:
    """An answer that always says the same."""
    return answer(description, ref("ErrorMessage"), {"error": {"message": message}}, headers=headers)


def ref(name: str) -> Object:
    """The schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}
