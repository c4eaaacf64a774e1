"""What docs/operations.md says of records and metrics is all there is, and true."""

import ast
import asyncio
import re
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.server import Server, remember, until
from tests.support.world import USERS, World
from tests.telemetry.test_metrics import names

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "genstatus_server"
DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
#: A trace id, a parent id and flags.
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str, heading: str) -> set[str]:
    """What is named in the first cells of the table with this heading."""
    table = text.split(f"\n| {heading} |")[1].split("\n\n", maxsplit=1)[0]
    return {name for row in table.splitlines()[2:] for name in re.findall("`([^`]+)`", row.split("|")[1])}


def actions() -> Iterator[str]:
    """Every action that the server's code gives to a record."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of_log = isinstance(node.func.value, ast.Name) and node.func.value.id == "log"
                if of_log and node.func.attr in {"info", "warning", "exception"}:
                    assert isinstance(node.args[0], ast.Constant), f"{path}: an action is written out"
                    yield str(node.args[0].value)


def test_operations_page_lists_exactly_the_log_actions() -> None:
    # The record of a request is chosen by its status, so it is no call by name. What was dropped, the log says itself.
    assert {*actions(), "log_records_dropped"} == first_cells(section("Logs"), "action")


def test_operations_page_lists_exactly_the_metrics() -> None:
    documented = {name.partition("{")[0] for name in first_cells(section("Metrics"), "metric")}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in names()}
    assert documented == families | {"genstatus_process_restarts_total"}


def requests(records: Iterable[MutableMapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of requests: the watcher writes records too, when it likes."""
    return [dict(record) for record in records if record["event"] == "request"]


async def record_of(server: Server, **query: Any) -> dict[str, Any]:
    """The record of one request."""
    with capture_logs() as records:
        await server.check(**query)
        await until(lambda: requests(records), what="the record")
    (found,) = requests(records)
    return found


async def test_request_record_has_user_parameters_and_result(server: Server, world: World) -> None:
    await world.put_job()
    trace = f"00-{TRACE}"
    polled = await record_of(server, headers={"X-Request-ID": "mine", "traceparent": trace})
    assert polled["traceparent"] == trace
    assert polled["request_id"] == "mine"
    assert polled["user_id"] == USERS["owner"]["_id"]
    assert (polled["submission_id"], polled["file_type"], polled["status"]) == (1, "D1", 200)
    assert polled["generation_status"] == "waiting"
    assert "wait_result" not in polled
    await remember(server, world)
    held = await record_of(server, wait="true", timeout=0.2)
    assert (held["wait_result"], held["generation_status"]) == ("deadline", "waiting")
    assert 0 < held["held_ms"] <= held["duration_ms"]
    assert set(held) - {"event", "log_level"} == first_cells(section("Logs"), "field") - {"cause", "traceparent"}


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        pytest.param(f"00-{TRACE}", f"00-{TRACE}", id="the version of today"),
        pytest.param(f"01-{TRACE}", f"01-{TRACE}", id="a later version"),
        pytest.param(f"fe-{TRACE}-and-more", f"fe-{TRACE}", id="further fields of a later version"),
        pytest.param(f"01-{TRACE}-", f"01-{TRACE}", id="an empty further field"),
        pytest.param(f"00-{TRACE}-more", None, id="the version of today has no further field"),
        pytest.param(f"01-{TRACE}more", None, id="longer flags"),
        pytest.param(f"ff-{TRACE}", None, id="a version that there is not"),
        pytest.param("00-" + "0" * 32 + "-00f067aa0ba902b7-01", None, id="no trace id"),
        pytest.param("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", None, id="no parent id"),
        pytest.param("00-" + TRACE.upper(), None, id="capitals"),
        pytest.param(f"00-{TRACE}"[:-1], None, id="too short"),
        pytest.param("", None, id="empty"),
    ],
)
async def test_request_record_has_a_traceparent_as_w3c_defines_it(
    server: Server, sent: str, logged: str | None
) -> None:
    record = await record_of(server, headers={"traceparent": sent})
    assert record.get("traceparent") == logged


async def test_request_record_has_the_status_as_a_number(server: Server) -> None:
    with capture_logs() as records:
        for method, path in (("GET", "/nowhere"), ("OPTIONS", "/livez")):
            await server.fetch(path, method=method)
        await until(lambda: len(requests(records)) == 2, what="the records")
    statuses = [record["status"] for record in requests(records)]
    assert [(type(status), status) for status in statuses] == [(int, 404), (int, 204)]


async def test_request_record_names_an_error_or_a_gone_client(server: Server, world: World) -> None:
    await world.put_job()
    with capture_logs() as records:
        asking = asyncio.create_task(server.check(wait="true"))
        await server.held()
        await world.log_out("owner")
        assert (await asking).code == 401
        await until(lambda: requests(records), what="the record")
    (record,) = requests(records)
    assert (record["wait_result"], record["status"]) == ("error", 401)
    assert "generation_status" not in record
