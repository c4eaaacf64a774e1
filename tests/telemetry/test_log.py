"""What is written of a record, and what happens where it cannot be written."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from genstatus_server.telemetry import log
from genstatus_server.telemetry.log import LogWriter
from tests.support.processes import wait_until

SECRET = "0123456789abcdef" * 4


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def writer_on(descriptor: int) -> LogWriter:
    """A writer whose lines are the actions of the records, with the values of their fields."""
    return LogWriter(descriptor, lambda record: " ".join([record.action, *map(str, record.fields.values())]) + "\n")


def write(writer: LogWriter, action: str) -> None:
    writer.write("info", action, {})


class Unprintable:
    def __str__(self) -> str:
        raise ValueError


def fill(end: int) -> int:
    """Fill a pipe. Returns how many bytes it holds."""
    os.set_blocking(end, False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(end, b"\n")
    os.set_blocking(end, True)
    return filled


def test_log_writer_drops_and_counts_records_that_nobody_reads() -> None:
    with pipe() as (reader, end):
        filled = fill(end)  # So not a single record is written before the pipe is read.
        writer, record, count = writer_on(end), "x" * 99, 30_000
        for _ in range(count):
            write(writer, record)
        dropped = writer.dropped
        assert 0 < dropped < count
        writer.wait_written(0.01)  # It gives up.
        written = b""
        while written.count(b"\n") < filled + count - dropped + 1:
            written += os.read(reader, 1 << 20)
        write(writer, "after")
        while not written.endswith(b"after\n"):
            written += os.read(reader, 1 << 20)
        lines = written[filled:].decode().splitlines()
        assert lines.count(record) == count - dropped
        assert set(lines) == {record, f"log_records_dropped {dropped}", "after"}


def test_log_writer_drops_what_cannot_be_rendered() -> None:
    with pipe() as (reader, end):
        writer = writer_on(end)
        writer.write("info", "bad", {"value": Unprintable()})
        write(writer, "good")
        writer.wait_written(10)
        assert os.read(reader, 100) == b"good\nlog_records_dropped 1\n"


def test_log_writer_survives_a_reader_that_is_gone(tmp_path: Path) -> None:
    reader, end = os.pipe()
    writer = writer_on(end)
    os.close(reader)
    for _ in range(3):
        write(writer, "lost")
    wait_until(lambda: writer.dropped == 3, "they are counted")
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), end)
        write(writer, "kept")
        writer.wait_written(10)
    os.close(end)
    assert (tmp_path / "log").read_text() == "kept\nlog_records_dropped 3\n"


def test_log_writer_waits_for_a_pipe_that_another_made_nonblocking() -> None:
    with pipe() as (reader, end):
        os.set_blocking(end, False)
        writer = writer_on(end)
        expected = "".join(f"{number:01000}\n" for number in range(200))  # More than fits into the pipe.
        for line in expected.splitlines():
            write(writer, line)
        read = b""
        while len(read) < len(expected):
            read += os.read(reader, 65536)
        assert (read.decode(), writer.dropped) == (expected, 0)


def test_log_writer_takes_a_record_written_by_a_destructor() -> None:
    """Python runs destructors anywhere, also in the middle of a write by the same thread."""
    with pipe() as (reader, end):
        writer = writer_on(end)
        with writer.changed:
            write(writer, "in the middle")
        assert os.read(reader, 100) == b"in the middle\n"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Callable[[], str]]]:
    """Sets the log up in a format; what that gives returns what was written."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    path = tmp_path / "log"
    # Now, and not behind the test: what they are at this moment is what they become again.
    as_imported = dict(vars(log))
    with path.open("w") as stream:

        def set_up(log_format: str) -> Callable[[], str]:
            monkeypatch.setattr(sys, "stderr", stream)
            log.set_up(log_format)

            def read() -> str:
                log.wait_written(10)
                return path.read_text()

            return read

        yield set_up
        logging.captureWarnings(capture=False)
        root.handlers[:], root.level = before
        vars(log).update(as_imported)


def test_log_writes_records_of_this_and_of_libraries_as_json(written: Callable[[str], Callable[[], str]]) -> None:
    read = written("json")
    log.info("a", number=1)
    logging.getLogger("library").warning("it %s", "happened")
    logging.getLogger("library").warning("%d", "no number")
    try:
        raise ValueError("defect")  # noqa: TRY301 - it is what is logged
    except ValueError:
        log.exception("b")
        logging.getLogger("library").exception("c")
    records: list[dict[str, Any]] = [json.loads(line) for line in read().splitlines()]
    assert [list(record)[:3] for record in records] == [["timestamp", "level", "action"]] * 5
    assert [record["action"] for record in records] == ["a", "it happened", "%d", "b", "c"]
    assert [record["level"] for record in records] == ["info", "warning", "warning", "error", "error"]
    assert all("ValueError: defect" in record["exception"] for record in records[-2:])


def test_log_for_humans_escapes_control_characters(written: Callable[[str], Callable[[], str]]) -> None:
    read = written("human")
    log.warning("a", path="/\x1b[2J\x9b2J\x85\x7f\u202e\nforged", number=1)
    logging.getLogger("library").warning("\x9d0;title")
    try:
        raise ValueError("\x9b2J")  # noqa: TRY301 - it is what is logged
    except ValueError:
        log.exception("b")
    text = read()
    assert r"/\x1b[2J\x9b2J\x85\x7f\u202e\nforged" in text
    assert r"\x9d0;title" in text
    assert "Traceback (most recent call last):\n" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_log_works_without_a_standard_error(
    written: Callable[[str], Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written("json")
    monkeypatch.setattr(sys, "stderr", None)
    log.set_up("auto")
    log.info("a")
    log.wait_written(10)
    assert log.dropped_records() == 0


def test_log_join_scrubs_only_the_record_with_a_secret() -> None:
    harmless = f'{{"request_id": "{SECRET}"}}\n'  # An id of the caller's own that looks like a digest.
    assert log.join([harmless, f"/session={SECRET}\n"]) == harmless + "/session=***\n"


def driver_errors(uri: str) -> Iterator[PyMongoError]:
    """What MongoDB's driver really raises."""
    for name in ("127.0.0.1:1", "127.0.0.1:1,localhost:1"):
        with MongoClient[dict[str, Any]](f"mongodb://{name}/?serverSelectionTimeoutMS=50") as client:
            try:
                client.admin.command("ping")
            except PyMongoError as error:
                yield error
    with MongoClient[dict[str, Any]](uri) as client:
        for command in ({"nonsense": 1}, {"find": 1}):
            try:
                client.admin.command(command)
            except PyMongoError as error:
                yield error
    details = {"ok": 0, "errmsg": "x", "$clusterTime": {"clusterTime": 1}, "signature": {"hash": b""}}
    message = 'not authorized on a to execute command { find: "jobs", $clusterTime: { signature: 1 } }'
    yield OperationFailure(f"{message}, full error: {details}", 13, details)


def test_cause_is_one_plain_line_without_the_drivers_details(mongodb_uri: str) -> None:
    errors = list(driver_errors(mongodb_uri))
    assert len(errors) == 5
    for error in errors:
        for text in (log.cause(error), log.plain(error)):
            assert 10 < len(text) <= 350
            for detail in ("Topology", "$cluster", "full error", "configured timeouts", "{", "\n", "ObjectId"):
                assert detail not in text, text
    assert "Connection refused" in log.cause(errors[0])
    assert log.cause(errors[-1]) == "OperationFailure: not authorized on a to execute command"


def test_cause_names_the_underlying_error() -> None:
    error = RuntimeError("outer")
    error.__cause__ = TimeoutError()
    assert log.cause(error) == "TimeoutError"
