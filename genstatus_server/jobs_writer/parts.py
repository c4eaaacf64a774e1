"""Reads a file or a stream in the parts that S3 takes: at least 5 MiB each but for the last, and at most 10,000."""

import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Final

#: A file by its path, or a stream open for reading bytes, which need not be seekable.
Source = str | PathLike[str] | BinaryIO

_MIB: Final = 2**20
PART_SIZE: Final = 8 * _MIB
_LARGEST_PART: Final = 4096 * _MIB  # S3 allows 5 GiB.
_MOST_PARTS: Final = 10_000
_EQUAL_PARTS: Final = 5_000
_PARTS_PER_SIZE: Final = 500


@contextmanager
def opened(source: Source) -> Iterator[tuple[BinaryIO, int | None]]:
    """The stream, and its size where that is known."""
    if not isinstance(source, str | PathLike):
        yield source, None
        return
    with Path(source).open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        yield stream, status.st_size if stat.S_ISREG(status.st_mode) else None


def part_sizes(size: int | None) -> Iterable[int]:
    """The sizes of the parts, in bytes, for a file of `size` bytes, or of any up to 5 TiB.

    All are equal where the size is known, and where it is not, those up to 40 GiB: some S3-compatible servers demand
    it of all but the last.
    """
    if size is not None:
        return itertools.repeat(max(PART_SIZE, (size // (_MOST_PARTS * _MIB) + 1) * _MIB), _MOST_PARTS)
    doublings = (max(0, number - _EQUAL_PARTS + _PARTS_PER_SIZE) // _PARTS_PER_SIZE for number in range(_MOST_PARTS))
    return (min(PART_SIZE << doubling, _LARGEST_PART) for doubling in doublings)


def parts(stream: BinaryIO, sizes: Iterable[int], poll: Callable[[], object]) -> Iterator[bytes]:
    """What `stream` gives, in parts of exactly these `sizes` but for the last. An empty stream has one empty part.

    `poll` is called before each read. Raises ValueError where the stream says that it stands at its end already.
    """
    buffer, is_first = bytearray(), True
    for size in sizes:
        while len(buffer) < size:
            poll()
            data = _read(stream, size - len(buffer))
            if not data:
                if is_first and not buffer:
                    _refuse_end(stream)
                if is_first or buffer:
                    yield bytes(buffer)
                return
            buffer += data
        yield _taken(buffer, size)
        is_first = False
    raise ValueError(f"the file is too large for S3: it takes more than {_MOST_PARTS} parts")


def _taken(buffer: bytearray, size: int) -> bytes:
    """The first `size` bytes, which are taken out."""
    with memoryview(buffer) as view, view[:size] as part:
        taken = part.tobytes()
    del buffer[:size]
    return taken


def _read(stream: BinaryIO, size: int) -> bytes:
    data: object = stream.read(size)
    if data is None:
        raise BlockingIOError("the stream is in non-blocking mode, and has no bytes at the moment")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"the stream must give bytes, not {type(data).__name__}: open it in binary mode")
    return bytes(data)


def _refuse_end(stream: BinaryIO) -> None:
    """A stream that was written and not rewound is a mistake; one that cannot tell its position may be empty."""
    try:
        position = stream.tell()
    except (AttributeError, OSError):
        return
    if position:
        raise ValueError(f"the stream stands at its end, {position} bytes in: call seek(0) before the upload")
