"""The target of a download: a file that appears when it is complete, or a stream. Both can resume a download."""

import errno
import os
import re
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from .answers import DownloadFailed
from .rules import refusal

#: Told while a file is downloaded: bytes that have come, and bytes in all where that is known.
Progress = Callable[[int, int | None], object]


class Output(ABC):
    """What has come so far of one file, of which `received` bytes."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._total: int | None = None
        self._tag = ""
        self.received = 0

    def range_headers(self) -> dict[str, str]:
        """The headers that ask for what is still missing, provided that it is the same file; none to begin anew."""
        is_short = self.received > 0 and self.received != self._total
        return {"Range": f"bytes={self.received}-", "If-Range": self._tag} if self._tag and is_short else {}

    def accept(self, status: int, headers: Mapping[str, str], total: int | None) -> str:
        """Why the body of this answer is not to be written; empty where it is the whole file, or what is missing of it.

        Some S3-compatible servers send a range with status 200, and some ignore `If-Range`.
        """
        tag, sent = headers.get("etag", ""), headers.get("content-range", "")
        if status == HTTPStatus.OK and not sent:
            self._begin(tag if tag.startswith('"') else "", total)  # A weak one says nothing of bytes.
            return ""
        if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            if tag == self._tag and self._is_rest(sent):
                return ""
            self._tag = ""  # Begin anew.
            return "the storage sent other bytes than were requested"
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._tag = ""
        return refusal(status)

    def _is_rest(self, content_range: str) -> bool:
        """Whether this range is all that is missing, up to the last byte of the file."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range)
        if found is None or int(found[1]) != self.received:
            return False
        total = self._total if found[3] == "*" else int(found[3])
        return total is None or (int(found[2]) + 1 == total and self._total in {None, total})

    def write(self, chunk: bytes) -> None:
        self._put(chunk)
        self.received += len(chunk)
        self._on_progress(self.received, self._total)

    def _begin(self, tag: str, total: int | None) -> None:
        """The file comes from its beginning."""
        self._tag, self._total, self.received = tag, total, 0
        self._on_progress(0, total)

    @abstractmethod
    def _put(self, chunk: bytes) -> None:
        """The next bytes of the file, of which `received` have come before."""


class PartFile(Output):
    """What comes is written beside `path` and renamed when it is complete; whatever else happens, it is removed.

    Raises OSError if the path cannot be written, or is not an ordinary file. The file gets
    the mode that any new file gets.
    """

    def __init__(self, path: str | os.PathLike[str], on_progress: Progress = lambda _received, _total: None) -> None:
        super().__init__(on_progress)
        self.path = Path(path)
        if os.fspath(path).endswith(os.sep):  # Which `Path` drops.
            raise IsADirectoryError(errno.EISDIR, "names a folder, not a file", str(path))
        _check_replaceable(self.path)
        # Its name does not depend on the length of `path`, which may have the longest name that is allowed.
        self._part = self.path.with_name(f".genstatus-{secrets.token_hex(4)}.part")
        self._file: BinaryIO = self._part.open("xb")

    def keep(self) -> Path:
        """Put the file at its path, in the place of what was there."""
        self._file.close()
        self._part.replace(self.path)
        return self.path

    def close(self) -> None:
        """Remove what was not kept."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _begin(self, tag: str, total: int | None) -> None:
        self._file.seek(0)
        self._file.truncate()
        super()._begin(tag, total)

    def _put(self, chunk: bytes) -> None:
        self._file.write(chunk)


class StreamOutput(Output):
    """Writes to `stream`, which cannot be rewound. If a download starts again, bytes already written are skipped.

    Raises `DownloadFailed` where a file begins again and may be another.
    """

    def __init__(self, stream: BinaryIO, on_progress: Progress) -> None:
        super().__init__(on_progress)
        self._stream = stream
        self._written = 0

    def _begin(self, tag: str, total: int | None) -> None:
        if self._written and (not tag or tag != self._tag):
            raise DownloadFailed("the download broke off, and the storage cannot go on with the same file")
        super()._begin(tag, total)

    def _put(self, chunk: bytes) -> None:
        new = memoryview(chunk)[max(self._written - self.received, 0) :]
        self._written += len(new)
        while new:
            # A raw stream returns how many bytes it wrote. Other streams write all, and some of them return None.
            new = new[self._stream.write(new) or len(new) :]


def _check_replaceable(path: Path) -> None:
    """Raise OSError where a rename would put a file in the place of something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISLNK(mode):
        raise OSError(errno.EINVAL, "is a symbolic link, which would be replaced: name its target", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is no ordinary file; - is standard output", str(path))
    if path.is_mount():  # As of a container that is given one file.
        raise OSError(errno.EBUSY, "is a file that is mounted by itself, which cannot be replaced", str(path))
    folder = path.parent.stat()
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in {0, folder.st_uid, path.stat().st_uid}:
        raise PermissionError(errno.EPERM, "belongs to another user, and its folder is sticky", str(path))
