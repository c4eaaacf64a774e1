"""What the table of the benchmarks says of a measurement; that all of them run is seen by tox's environment `bench`."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.chart import growth, svg
from benchmarks.groups.wakes import WARM_UP, latencies
from benchmarks.load import p99
from benchmarks.procfs import accept_queue, cpu_seconds, memory, processes_of
from benchmarks.servers import ablated
from benchmarks.servers.ablated import SWITCHES
from benchmarks.table import Row, Target, markdown, number
from tests.support.processes import wait_until

pytestmark = pytest.mark.one_python


def row(ours: list[float], theirs: list[float] | None, target: Target | None) -> Row:
    return Row("polls", "polls & <holds>", "/s", ours, theirs, "bare", target)


@pytest.mark.parametrize(
    ("ours", "target", "verdict"),
    [
        ([90, 95, 10], Target(">=", 0.9), "yes"),  # the median of the rounds, not their mean
        ([88, 80, 89], Target(">=", 0.9), "no, within noise"),
        ([50, 95, 50], Target(">=", 0.9), "no"),
        ([110, 120, 100], Target("<=", 1.1), "yes"),
        ([120, 120, 100], Target("<=", 1.1), "no, within noise"),
        ([200, 300, 100], Target("<=", 1.1), "no"),
        ([200, 300, 100], None, ""),
    ],
)
def test_table_judges_a_ratio_by_its_rounds(ours: list[float], target: Target | None, verdict: str) -> None:
    assert row(ours, [100, 100, 100], target).verdict == verdict


def test_table_computes_the_ratio_of_each_round() -> None:
    """A machine that is half as quick in one round changes no ratio."""
    assert list(row([100, 50, 100], [200, 100, 200], None).values) == [0.5, 0.5, 0.5]


def test_table_judges_the_value_where_nothing_is_compared() -> None:
    assert row([0, 0, 0], None, Target("<=", 0)).verdict == "yes"
    assert row([0, 1, 1], None, Target("<=", 0)).verdict == "no"


def test_table_refuses_unequal_numbers_of_rounds() -> None:
    with pytest.raises(ValueError, match="shorter"):
        row([1, 2], [1], None)


def test_table_renders_as_markdown_and_json() -> None:
    rows = [row([90, 95, 10], [100, 100, 100], Target(">=", 0.9)), row([0.1234], None, None)]
    head, rule, first, second = markdown(rows).splitlines()
    assert [cell.strip() for cell in first.strip("|").split("|")][1:] == [
        "90.0 /s", "100 (bare)", "0.900", "0.100 to 0.950", "≥ 0.9", "yes",
    ]  # fmt: skip
    assert "0.123 /s" in second
    assert len(head) == len(rule) == len(first) == len(second)
    assert json.loads(json.dumps(rows[0].as_json()))["verdict"] == "yes"


@pytest.mark.parametrize("target", [Target("<=", 0), Target("<=", 2), Target(">=", 7)])
@pytest.mark.parametrize("values", [[0.0], [1.0, 100.0, 2.0]])
def test_picture_is_valid_and_its_bars_stay_inside(values: list[float], target: Target) -> None:
    picture = ET.fromstring(svg([row(values, None, target)], "a & b"))  # noqa: S314 - made here
    bars = [element for element in picture.iter("{http://www.w3.org/2000/svg}rect") if element.get("x")]
    assert len(bars) == 2
    assert all(0 <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= 960 for bar in bars)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (1.5, "1.50"), (42.13, "42.1"), (999.6, "1000"), (1234.5, "1234")],
)
def test_number_has_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_latencies_leave_out_the_warm_up() -> None:
    jobs = list(range(WARM_UP + 2))
    ended = dict.fromkeys(jobs, 9.0) | {WARM_UP: 0.001, WARM_UP + 1: 0.002}
    assert latencies(jobs, dict.fromkeys(jobs, 0.0), ended) == [1.0, 2.0]


def test_p99_is_the_value_that_one_in_a_hundred_exceeds() -> None:
    assert p99(list(range(1, 102))) == 100


def test_procfs_counts_a_process_and_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; a = bytearray(50_000_000); time.sleep(60)"]) as child:
        try:
            wait_until(lambda: memory(child.pid) > 50_000_000, "the child has its memory")
            assert child.pid in processes_of(os.getpid())
            assert memory(os.getpid()) > memory(child.pid)
            assert 0 < cpu_seconds(child.pid) < cpu_seconds(os.getpid())
        finally:
            child.kill()


def test_thread_list_skips_threads_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of threads is not the same from one moment to the next."""
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: [folder / "ended", *listed(folder)])
    assert os.getpid() in processes_of(os.getpid())
    assert cpu_seconds(os.getpid()) > 0


def test_procfs_counts_connections_that_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(3):
            stack.enter_context(socket.create_connection(address))
        assert accept_queue(address[1]) == 3
    assert accept_queue(address[1]) == 0


def test_table_names_the_alternatives_of_each_row() -> None:
    ours = Row("polls", "polls", "/s", [9.0], target=Target(">=", 1), key="poll")
    other = Row("polls", "reads", "", [0.0], target=Target("<=", 0), key="reads")
    peers = [Row("peers", "polls", "/s", [9.0], [3.0], name, key="poll") for name in ("plain", "stream each")]
    head, _, first, second = markdown([ours, other], peers).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][-2:] == ["plain", "stream each"]
    assert [cell.strip() for cell in first.strip("|").split("|")][-2:] == ["3.00 /s", "3.00 /s"]
    assert [cell.strip() for cell in second.strip("|").split("|")][-2:] == ["", ""]


def test_picture_of_growth_has_a_panel_for_each_curve() -> None:
    rows = [
        Row("growth", f"{name}, {size} holds", "MB", [float(size)], curve=name, size=size)
        for name in ("memory", "wake p99", "polls")
        for size in (1000, 20_000)
    ]
    picture = ET.fromstring(growth(rows, "a & b"))  # noqa: S314 - made here
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}polyline"))) == 3
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    points = list(picture.iter("{http://www.w3.org/2000/svg}circle"))
    assert all(0 < float(each.attrib["cx"]) < width and 0 < float(each.attrib["cy"]) < height for each in points)


@pytest.mark.parametrize("name", SWITCHES)
def test_switch_of_the_ablation_finds_what_it_replaces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = []

    def replace(where: Any, attribute: str, value: Any) -> None:
        monkeypatch.setattr(where, attribute, value)
        replaced.append(attribute)

    monkeypatch.setattr(ablated, "replace", replace)
    SWITCHES[name]()
    assert replaced
