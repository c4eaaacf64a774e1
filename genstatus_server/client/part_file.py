"""A file that is at its path only once it is whole."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

#: Told while a file is downloaded: bytes that have come, and bytes in all where that is known.
Progress = Callable[[int, int | None], object]


class PartFile:
    """What comes is written beside `path` and renamed when it is complete; whatever else happens, it is removed.

    Raises OSError where nothing can be written there. The file gets the mode that any new file gets.
    """

    def __init__(self, path: str | os.PathLike[str], on_progress: Progress) -> None:
        self.path = Path(path)
        self._on_progress = on_progress
        self._part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._file: BinaryIO = self._part.open("xb")
        self._total: int | None = None
        self.received = 0

    def begin(self, total: int | None) -> None:
        """Begin again, with nothing."""
        self._file.seek(0)
        self._file.truncate()
        self._total, self.received = total, 0
        self._on_progress(0, total)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.received += len(chunk)
        self._on_progress(self.received, self._total)

    def keep(self) -> Path:
        """Put the file at its path, in the place of what was there."""
        self._file.close()
        self._part.replace(self.path)
        return self.path

    def close(self) -> None:
        """Remove what was not kept."""
        self._file.close()
        self._part.unlink(missing_ok=True)
