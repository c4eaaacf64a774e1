"""Tables for people, JSON for scripts."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import click

Row = Mapping[str, Any]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """What a check found, and what to do about it."""

    check: str
    result: Result
    found: str
    advice: str = ""


def with_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the flag `--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def show_one(row: Row, *, as_json: bool) -> None:
    """One thing: a line for each of its fields, or an object."""
    if as_json:
        click.echo(_json(row))
        return
    width = max(len(name) for name in row)
    for name, value in row.items():
        click.echo(f"{name:<{width}}  {_cell(value)}".rstrip())


def show_all(rows: Sequence[Row], *, as_json: bool, nothing: str) -> None:
    """Things of one kind: a table, or an array; `nothing` says that there are none."""
    if as_json:
        click.echo(_json(rows))
    elif not rows:
        click.echo(nothing)
    else:
        lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Findings: a table with the advice below it, or an object."""
    if as_json:
        is_ok = all(finding.result is not Result.FAILED for finding in findings)
        click.echo(_json({"ok": is_ok, "findings": [finding._asdict() for finding in findings]}))
        return
    rows = [{"check": each.check, "result": each.result, "found": each.found} for each in findings]
    show_all(rows, as_json=False, nothing="nothing was checked")
    if any(finding.advice for finding in findings):
        click.echo("\n" + "\n".join(f"{each.check}: {each.advice}" for each in findings if each.advice))


def duration(text: str) -> int:
    """The seconds of a length of time such as `90s`, `30m`, `2h` or `7d`."""
    number, unit = text[:-1], text[-1:]
    if not (re.fullmatch("[0-9]{1,9}", number, re.ASCII) and int(number) and unit in _SECONDS):
        raise click.BadParameter(f"{text!r} is no length of time; one looks like 90s, 30m, 2h or 7d")
    return int(number) * _SECONDS[unit]


def age(moment: datetime | None) -> str | None:
    """How long ago `moment` was, in its largest two units, such as `2h 5m`."""
    if moment is None:
        return None
    left, parts = max(0, int((datetime.now(UTC) - moment).total_seconds())), list[str]()
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _SECONDS[unit])
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=lambda it: it.isoformat() if isinstance(it, datetime) else str(it))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:%Y-%m-%d %H:%M:%SZ}" if isinstance(value, datetime) else str(value)
    # A document may hold anything, and a terminal obeys some of it.
    return "".join(character if character.isprintable() else "?" for character in text)
