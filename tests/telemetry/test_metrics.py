"""What the metrics say of a server that serves, and what Prometheus' rules and the dashboard say of the metrics."""

import asyncio
import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from genstatus_server import __version__
from genstatus_server.telemetry.metrics import Metrics
from tests.support.server import DEADLINE, Server, until
from tests.support.world import World

CONF = Path(__file__).parents[2] / "conf"


def value(server: Server, name: str, **labels: str) -> float:
    return server.services.metrics.registry.get_sample_value(name, labels) or 0


async def test_metrics_show_the_oldest_hold_and_the_oldest_job(server: Server, world: World) -> None:
    assert value(server, "genstatus_oldest_hold_seconds") == 0
    assert value(server, "genstatus_oldest_waited_job_seconds") == 0
    await world.put_job(updated_at=datetime.now(UTC) - timedelta(hours=2))
    await world.put_job(101, "D2", updated_at=datetime.now(UTC) - timedelta(hours=9))  # Nobody waits for this one.
    waiting = asyncio.create_task(server.check(wait="true"))
    await server.held()
    assert 0 < value(server, "genstatus_oldest_hold_seconds") < 60
    assert 7200 <= value(server, "genstatus_oldest_waited_job_seconds") < 7260
    await world.finish(updated_at=datetime.now(UTC))
    await waiting
    await until(lambda: not value(server, "genstatus_held_requests"))
    assert value(server, "genstatus_oldest_hold_seconds") == 0
    assert value(server, "genstatus_oldest_waited_job_seconds") == 0


async def test_metrics_show_no_age_for_a_job_without_updated_at(server: Server, world: World) -> None:
    await world.put_job()
    waiting = asyncio.create_task(server.check(wait="true"))
    await server.held()
    assert value(server, "genstatus_oldest_waited_job_seconds") == 0
    await world.finish()
    await waiting


async def test_metrics_time_signatures_and_the_lag_of_the_change_stream(server: Server, world: World) -> None:
    seen = value(server, "genstatus_change_stream_lag_seconds_count")
    await world.put_job()
    await world.finish()
    for _ in range(2):
        assert (await server.check()).code == 200
    assert value(server, "genstatus_presign_seconds_count") == 1  # The second answer has the URL of the first.
    await until(lambda: value(server, "genstatus_change_stream_lag_seconds_count") >= seen + 2)
    assert value(server, "genstatus_change_stream_lag_seconds_sum") < 30


async def test_metrics_count_cached_documents_as_hits(server: Server, world: World) -> None:
    await world.put_job()

    def counted(collection: str) -> tuple[float, float]:
        name = "genstatus_cache_lookups_total"
        return tuple(value(server, name, collection=collection, result=result) for result in ("hit", "miss"))  # type: ignore[return-value]  # two of them

    async def only_hits() -> bool:
        before = {name: counted(name) for name in ("jobs", "submissions", "users", "sessions")}
        await server.check()
        after = {name: counted(name) for name in before}
        return all(after[name][0] > before[name][0] and after[name][1] == before[name][1] for name in before)

    # The cache answers once the change stream has passed the time of what was read.
    async with asyncio.timeout(DEADLINE):
        while not await only_hits():
            pass


@pytest.mark.parametrize("server_options", [{"max_waits": "0"}])
async def test_metrics_count_a_shed_request(server: Server, world: World) -> None:
    await world.put_job()
    await server.check(wait="true")
    assert value(server, "genstatus_shed_total") == 1


def test_metrics_name_the_running_version() -> None:
    labels = {"version": __version__, "python": platform.python_version()}
    assert Metrics().registry.get_sample_value("genstatus_build_info", labels) == 1


def test_metrics_labels_take_nothing_from_callers(server: Server) -> None:
    labels = {
        label for family in server.services.metrics.registry.collect() for s in family.samples for label in s.labels
    }
    assert labels <= {"status", "reason", "result", "collection", "le", "version", "python"}


def names() -> set[str]:
    """Every series that the server has, or has as soon as a label gets its first value."""
    metrics = Metrics()
    metrics.count_cache_lookups_with(lambda: iter([("jobs", 1, 1)]))
    metrics.requests_of(200).inc()
    metrics.hold_seconds.labels("settled").observe(1)
    metrics.mongodb_reads.labels("jobs").inc()
    metrics.malformed_requests.labels("no_host").inc()
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CONF / "prometheus-rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((CONF / "grafana-dashboard.json").read_text())["panels"]
    return content


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            # Grafana puts an interval in; to a parser any will do.
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$job", "genstatus")


def selected(expression: str) -> set[str]:
    """The names of the series that a PromQL expression selects. Raises ValueError for what is no PromQL."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(str(node.name))

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_rules_and_dashboard_use_existing_metrics(where: str, expression: str) -> None:
    assert selected(expression)
    assert selected(expression) <= names() | {"up"}


def test_search_for_unknown_metrics_finds_one() -> None:
    assert not selected("rate(genstatus_no_such_total[5m]) > 1") <= names()
    with pytest.raises(ValueError, match="unclosed"):
        selected("sum(genstatus_shed_total")


def test_alert_rules_say_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description"}
