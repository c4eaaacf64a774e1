"""The files of the pages, read once from the package."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HTML: Final = "text/html; charset=utf-8"

#: What is served, and how; the folder's other files are for npm.
_CONTENT_TYPES: Final = {
    ".html": HTML,
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",  # genstatus.d.ts, for editors and compilers
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file; `content_type` is the header's value."""

    content_type: str
    content: bytes = field(repr=False)


#: By name.
STATIC_FILES: Final[Mapping[str, StaticFile]] = {
    path.name: StaticFile(_CONTENT_TYPES[path.suffix], path.read_bytes())
    for path in (Path(__file__).parent / "static").iterdir()
    if path.suffix in _CONTENT_TYPES
}
