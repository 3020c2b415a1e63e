"""Figures of an experiment as SVG text: a forest plot of arms, and curves of their losses.

Nothing is rendered, so the same numbers give the same file. Colours are those of the library's own
charts, and can be read on light ground and on dark.
"""

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence

from experiments.statistics import Interval
from unified_fm.report.charts import GRID, PALETTE, TEXT

_WIDTH = 900  # px of a figure
_LABELS = 170  # of the column of labels
_NUMBERS = 150  # of the column of numbers at the right
_ROW = 22
_EDGE = 12
_FONT = 12
_DASHES = ("", "5 3", "1.5 3")  # of lines, once all colours are used


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """An arm in a forest plot.

    Attributes:
        label: its name.
        dots: a number for each seed.
        interval: of their mean; None: it has none, and nothing is drawn for it.
        band: (low, high), a stretch that counts as no difference, behind the row; None: none.
        note: after the numbers, "(Holm)".
        strong: whether it is drawn as the one that matters.
    """

    label: str
    dots: Sequence[float]
    interval: Interval | None = None
    band: tuple[float, float] | None = None
    note: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """Arms on one axis.

    Attributes:
        title: above it.
        axis: what x is, with its unit.
        rows: from top to bottom.
        marks: {x: what a vertical line there means}.
        digits: of the numbers at the right.
    """

    title: str
    axis: str
    rows: Sequence[Row]
    marks: Mapping[float, str] = dataclasses.field(default_factory=lambda: {0.0: ""})
    digits: int = 2


def forest(panels: Sequence[Panel], *, legend: str = "") -> str:
    """One panel below the other; in each a row of dots, a mean and its interval for every arm.

    Args:
        panels: those without rows are left out.
        legend: a line below all.
    """
    parts: list[str] = []
    top = float(_EDGE)
    for panel in (p for p in panels if p.rows):
        drawn, top = _panel(panel, top)
        parts += drawn
    if legend:
        parts.append(_text(_EDGE, top + 4, legend, size=_FONT - 1))
        top += 14
    return _svg(top + _EDGE, parts)


def _panel(panel: Panel, top: float) -> tuple[list[str], float]:
    """(what is drawn from `top` on, where it ends)."""
    start, end = _LABELS, _WIDTH - _NUMBERS
    low, high = _range(_numbers(panel.rows), shown=panel.marks)
    scale = (end - start) / (high - low)

    def place(x):
        return start + (min(max(x, low), high) - low) * scale

    parts = [_text(_EDGE, top + 8, panel.title, size=_FONT + 1, weight="bold")]
    first = top + 40
    last = first + _ROW * len(panel.rows)
    for tick in _ticks(low, high):
        x = place(tick)
        parts.append(_line(x, first - 6, x, last - 6, GRID, 0.5, opacity=0.35))
        parts.append(_text(x, last + 10, f"{tick:g}", anchor="middle", size=_FONT - 1))
    for mark, said in panel.marks.items():
        x = place(mark)
        parts.append(_line(x, first - 8, x, last - 6, TEXT, 1.2))
        parts.append(_text(x, first - 14, said, anchor="middle", size=_FONT - 1))
    parts.append(_text((start + end) / 2, last + 26, panel.axis, anchor="middle", size=_FONT - 1))
    for number, row in enumerate(panel.rows):
        parts += _row(row, first + _ROW * number + _ROW / 3, place, (low, high), panel.digits)
    return parts, last + 52


def _row(row: Row, y: float, place, ends: tuple[float, float], digits: int) -> list[str]:
    colour = PALETTE[1] if row.strong else PALETTE[0]
    weight = "bold" if row.strong else "normal"
    parts = []
    if row.band is not None:
        left, right = place(row.band[0]), place(row.band[1])
        parts.append(
            f'<rect x="{left:.1f}" y="{y - _ROW / 2:.1f}" width="{right - left:.1f}" '
            f'height="{_ROW}" fill="{PALETTE[2]}" opacity="0.2"/>'
        )
    parts.append(_text(_LABELS - 14, y + 4, row.label, anchor="end", weight=weight))
    for dot in row.dots:
        if ends[0] <= dot <= ends[1]:
            x = place(dot)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" {_fill(colour, 0.45)}/>')
        else:  # beyond the axis, with the arrow to say so
            arrow = "<" if dot < ends[0] else ">"
            parts.append(_text(place(dot), y + 4, arrow, anchor="middle", colour=colour))
    if row.interval is not None:
        mean = row.interval.mean
        parts.append(_line(place(row.interval.low), y, place(row.interval.high), y, colour, 2))
        parts.append(f'<circle cx="{place(mean):.1f}" cy="{y:.1f}" r="4.2" {_fill(colour)}/>')
    parts.append(_text(_WIDTH - _NUMBERS + 14, y + 4, _said(row, digits), size=_FONT - 1))
    return parts


def _said(row: Row, digits: int) -> str:
    if row.interval is None:
        return row.note
    mean, low, high = (
        f"{x:.{digits}f}" for x in (row.interval.mean, row.interval.low, row.interval.high)
    )
    return f"{mean} [{low}, {high}] {row.note}".rstrip()


def curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, arms: Sequence[str], steps: int
) -> str:
    """Losses along the run, a panel for each stream and a line for each arm.

    Args:
        panels: {title: {arm: points at even distances}}; an arm has one colour in all.
        arms: in the order of the legend.
        steps: of the run.
    """
    height, gap = 300, 46
    width = (_WIDTH - _LABELS - gap * (len(panels) + 1)) / max(len(panels), 1)
    parts: list[str] = []
    for number, (title, lines) in enumerate(panels.items()):
        left = gap + number * (width + gap)
        parts += _axes(title, lines, (left, 40.0, width, height), steps, arms)
    for number, arm in enumerate(arms):
        y = 46 + 17 * number
        x = _WIDTH - _LABELS + 8
        parts.append(_line(x, y, x + 24, y, *_stroke(arms, arm)))
        parts.append(_text(x + 30, y + 4, arm, size=_FONT - 1))
    return _svg(max(40 + height + 44, 60 + 17 * len(arms)), parts)


def _axes(title, lines, box, steps: int, arms: Sequence[str]) -> list[str]:
    left, top, width, height = box
    values = [y for points in lines.values() for y in points if math.isfinite(y)]
    low, high = _range(values, out=0.0)
    parts = [_text(left, top - 14, title, weight="bold")]
    for tick in _ticks(low, high):
        y = top + height * (high - tick) / (high - low)
        parts.append(_line(left, y, left + width, y, GRID, 0.5, opacity=0.35))
        parts.append(_text(left - 5, y + 4, f"{tick:g}", anchor="end", size=_FONT - 2))
    for tick in _ticks(0, steps, 4):
        x = left + width * tick / steps
        parts.append(_text(x, top + height + 16, f"{tick:,.0f}", anchor="middle", size=_FONT - 2))
    parts.append(
        _text(left + width / 2, top + height + 32, "step", anchor="middle", size=_FONT - 1)
    )
    for arm, points in lines.items():
        # A point is the mean over a part of the steps, and stands in its middle.
        xs = [left + width * (i + 0.5) / len(points) for i in range(len(points))]
        ys = [top + height * (high - y) / (high - low) for y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True) if math.isfinite(y))
        colour, thick, dash = _stroke(arms, arm)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}"'
            + (f' stroke-dasharray="{dash}"/>' if dash else "/>")
        )
    return parts


def _stroke(arms: Sequence[str], arm: str) -> tuple[str, float, str]:
    """(colour, thickness, dashes) of an arm's line."""
    number = arms.index(arm)
    return PALETTE[number % len(PALETTE)], 1.5, _DASHES[number // len(PALETTE) % len(_DASHES)]


def _numbers(rows: Sequence[Row]) -> list[float]:
    """All that could be shown: dots, and the ends of intervals and bands."""
    found = [x for row in rows for x in (*row.dots, *(row.band or ()))]
    for row in rows:
        if row.interval is not None:
            found += [row.interval.low, row.interval.high]
    return found


def _range(
    values: Sequence[float], *, shown: Iterable[float] = (), out: float = 0.02
) -> tuple[float, float]:
    """The ends of an axis, and a little more.

    Args:
        values: finite ones count.
        shown: must be on it.
        out: share of the values that may lie beyond each end.
    """
    finite = sorted(x for x in values if math.isfinite(x))
    few = int(out * len(finite))
    ends = [*finite[few : few + 1], *finite[len(finite) - 1 - few :][:1], *shown] or [0.0, 1.0]
    low, high = min(ends), max(ends)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between two ends."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _line(x1, y1, x2, y2, colour, width, dash: str = "", *, opacity: float = 1.0) -> str:
    more = f' stroke-dasharray="{dash}"' if dash else ""
    more += f' opacity="{opacity:g}"' if opacity < 1 else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{more}/>'
    )


def _fill(colour: str, opacity: float = 1.0) -> str:
    return f'fill="{colour}"' + (f' fill-opacity="{opacity:g}"' if opacity < 1 else "")


def _text(x, y, said, *, anchor="start", size=_FONT, weight="normal", colour=TEXT) -> str:
    if not said:
        return ""
    style = f'font-size="{size}" fill="{colour}"'
    style += f' text-anchor="{anchor}"' if anchor != "start" else ""
    style += f' font-weight="{weight}"' if weight != "normal" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(said, quote=False)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif">'
    )
    return "\n".join([head, *(part for part in parts if part), "</svg>", ""])
