"""When a record is written, and what of it."""

import asyncio
import io
import json
from typing import Any

import pytest

from genstatus_server.telemetry import log

SECRET = "0123456789abcdef" * 4


def actions(stream: io.StringIO) -> list[Any]:
    return [json.loads(line)["action"] for line in stream.getvalue().splitlines()]


async def test_those_of_one_turn_of_the_loop_are_written_together_and_behind_what_is_being_done() -> None:
    stream = io.StringIO()
    lines = log.JsonLines(stream)
    for action in ("a", "b"):
        lines.put({"action": action})
    assert actions(stream) == []
    await asyncio.sleep(0)
    assert actions(stream) == ["a", "b"]


def test_without_a_loop_each_is_written_at_once() -> None:
    stream = io.StringIO()
    lines = log.JsonLines(stream)
    for action in ("a", "b"):
        lines.put({"action": action})
        assert actions(stream)[-1] == action


def test_a_record_with_a_secret_costs_its_neighbours_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_through: list[str] = []
    scrub = log.scrub

    def scrub_and_note(text: str) -> str:
        scrubbed = scrub(text)
        if scrubbed != text:
            looked_through.append(text)
        return scrubbed

    monkeypatch.setattr(log, "scrub", scrub_and_note)
    stream = io.StringIO()
    lines = log.JsonLines(stream)
    lines._records = [{"action": "a", "path": f"/session={SECRET}"}, {"action": "b", "request_id": SECRET}]
    lines._write()
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"action": "a", "path": "/session=***"},
        {"action": "b", "request_id": SECRET},  # An id of the caller's own that looks like a digest.
    ]
    assert len(looked_through) == 1
