"""SVG pictures: how much of what its target allows each row uses, and what grows with the size."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import median
from typing import Final

from benchmarks.table import Row, number

_WIDTH: Final = 960
_LEFT: Final = 400
_RIGHT: Final = 150
_TOP: Final = 76
_STEP: Final = 34
_BAR: Final = 14
#: The right edge, as a multiple of what the target allows.
_MOST: Final = 2.0

_HOW_TO_READ: Final = "Shorter is better; the thin line is the spread of the rounds."
_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 } .small { font-size: 11.5px; fill: #59636e }
.back { fill: #ffffff } .yes { fill: #2da44e } .no { fill: #cf222e } .track { fill: #eaeef2 }
.curve { fill: none; stroke: #0969da; stroke-width: 2 } .point { fill: #0969da } .axis { stroke: #d1d9e0 }
.limit { stroke: #1f2328; stroke-width: 1.5; stroke-dasharray: 4 3 } .spread { stroke: #1f2328; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .back { fill: #0d1117 } .track { fill: #21262d }
  .limit, .spread { stroke: #e6edf3 }
}
"""


def svg(rows: Sequence[Row], title: str) -> str:
    """The picture; shorter bars are better, and those that end left of the dashed line meet their target."""
    shown = [row for row in rows if row.target]
    height = _TOP + _STEP * len(shown) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="back" width="{_WIDTH}" height="{height}" rx="8"/>',
        '<text class="title" x="24" y="32">How much of its target each figure uses</text>',
        f'<text class="small" x="24" y="52">{escape(title)}. {_HOW_TO_READ}</text>',
        *(part for number_, row in enumerate(shown) for part in _bar(row, _TOP + _STEP * number_)),
        f'<line class="limit" x1="{_x(1)}" x2="{_x(1)}" y1="{_TOP - 8}" y2="{height - 18}"/>',
        f'<text class="small" x="{_x(1)}" y="{height - 6}" text-anchor="middle">the target</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(row: Row, y: float) -> Iterator[str]:
    middle, low, high = _use(row, row.value), *sorted(_use(row, value) for value in (min(row.values), max(row.values)))
    kind = "yes" if row.verdict == "yes" else "no"
    value = number(row.value) if row.theirs else f"{number(row.value)} {row.unit}"
    than = f"over {row.than}, " if row.theirs else ""
    yield f'<text x="24" y="{y + 11}">{escape(row.name)}</text>'
    yield f'<text class="small" x="24" y="{y + 25}">{escape(than)}target {escape(str(row.target))}</text>'
    yield f'<rect class="track" x="{_LEFT}" y="{y}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_BAR}" rx="3"/>'
    yield f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{_x(middle) - _LEFT:.1f}" height="{_BAR}" rx="3"/>'
    yield f'<line class="spread" x1="{_x(low):.1f}" x2="{_x(high):.1f}" y1="{y + _BAR / 2}" y2="{y + _BAR / 2}"/>'
    yield f'<text x="{_WIDTH - _RIGHT + 14}" y="{y + 12}">{escape(value.strip())} · {escape(row.verdict)}</text>'


def _use(row: Row, value: float) -> float:
    """The share of what the target allows; above 1 it is missed."""
    limit = row.target.value if row.target else 1.0
    if row.target and row.target.comparison == ">=":
        return limit / value if value else _MOST
    if not limit:
        return _MOST if value else 0.0
    return value / limit


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(share, _MOST) / _MOST


#: A panel of the picture of growth: its width and height, and the space around its curve.
_PANEL: Final = (470, 250)
_SPACE: Final = (50, 60, 40, 50)
_PANELS_IN_A_LINE: Final = 2


def growth(rows: Sequence[Row], title: str) -> str:
    """The picture of the rows that belong to a curve: one panel for each curve."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if row.curve:
            curves.setdefault(row.curve, []).append(row)
    width, height = _PANEL[0] * _PANELS_IN_A_LINE + 20, _TOP + _PANEL[1] * -(-len(curves) // _PANELS_IN_A_LINE)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="back" width="{width}" height="{height}" rx="8"/>',
        '<text class="title" x="24" y="32">What grows, and with what</text>',
        f'<text class="small" x="24" y="52">{escape(title)}. The median of the rounds.</text>',
    ]
    for place, (name, points) in enumerate(curves.items()):
        left, top = place % _PANELS_IN_A_LINE * _PANEL[0], _TOP + place // _PANELS_IN_A_LINE * _PANEL[1]
        lines += _panel(name, points, left, top)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(name: str, points: Sequence[Row], left: float, top: float) -> Iterator[str]:
    values: Mapping[int, float] = {row.size: median(row.ours) for row in sorted(points, key=lambda row: row.size)}
    space_left, space_right, space_top, space_bottom = _SPACE
    bottom, right = top + _PANEL[1] - space_bottom, left + _PANEL[0] - space_right
    x_scale = (right - left - space_left) / max(values)
    y_scale = (bottom - top - space_top) / max(values.values())
    places = {size: (left + space_left + x_scale * size, bottom - y_scale * value) for size, value in values.items()}
    unit = points[0].name.rsplit(" ", 1)[-1]
    yield f'<text x="{left + 24}" y="{top + 14}">{escape(name)}, {escape(points[0].unit)}; by {escape(unit)}</text>'
    yield f'<line class="axis" x1="{left + space_left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.values())
    yield f'<polyline class="curve" points="{line}"/>'
    for size, (x, y) in places.items():
        yield f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        yield f'<text class="small" x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{number(values[size])}</text>'
        yield f'<text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{size:,}</text>'
