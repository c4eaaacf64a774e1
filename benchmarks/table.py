"""A row of the table: what was measured in each round, what it is compared with, and whether that is good enough."""

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

#: Differences below this share are noise.
NOISE: Final = 0.15
_COMPARE: Final = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Target:
    """A limit for the median of the rounds; `comparison` is <= or >=."""

    comparison: str
    value: float

    def __str__(self) -> str:
        return f"{'≤' if self.comparison == '<=' else '≥'} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One measurement; `ours` and `theirs` have a value for each round, of the same rounds."""

    group: str
    name: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] | None = None
    than: str = ""  #: what `theirs` are the values of
    target: Target | None = None
    note: str = ""
    key: str = ""  #: by which the same measurement of a peer is found
    curve: str = ""  #: the curve of the picture of growth that this is a point of, and its size
    size: int = 0
    values: Sequence[float] = field(init=False)  #: what is judged, of each round: the ratio where there are `theirs`

    def __post_init__(self) -> None:
        ratios = [a / b if b else 0.0 for a, b in zip(self.ours, self.theirs or [], strict=bool(self.theirs))]
        object.__setattr__(self, "values", ratios or list(self.ours))

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def verdict(self) -> str:
        """`yes`, `no`, `no, within noise`; empty where there is no target."""
        if self.target is None:
            return ""
        compare, limit = _COMPARE[self.target.comparison], self.target.value
        if compare(self.value, limit):
            return "yes"
        slack = limit * (1 + NOISE if self.target.comparison == "<=" else 1 - NOISE)
        return "no, within noise" if compare(self.value, slack) else "no"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"value": self.value, "verdict": self.verdict, "target": str(self.target or "")}


_HEAD: Final = ("what", "ours", "baseline", "ratio", "spread", "target", "met")


def markdown(rows: Sequence[Row], peers: Sequence[Row] = ()) -> str:
    """The table, aligned, so that it can be read in a terminal too. Each of `peers` adds to the row of its key."""
    names = list(dict.fromkeys(row.than for row in peers))
    cells = [(*_HEAD, *names), *((*_cells(row), *(_of_peer(row, name, peers) for name in names)) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    ours = f"{number(median(row.ours))} {row.unit}".strip()
    beside = f"{number(median(row.theirs))} ({row.than})" if row.theirs else ""
    ratio = number(row.value) if row.theirs else ""
    spread = f"{number(min(row.values))} to {number(max(row.values))}"
    return row.name, ours, beside, ratio, spread, str(row.target or ""), row.verdict


def _of_peer(row: Row, name: str, peers: Sequence[Row]) -> str:
    values = [peer.theirs for peer in peers if row.key and peer.key == row.key and peer.than == name]
    return f"{number(median(values[0]))} {row.unit}".strip() if values and values[0] else ""


def number(value: float) -> str:
    """Three digits that count, and no more."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 - from there on all digits before the point are shown
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")
