"""Charts of a run's metrics.jsonl: loss curves and heat maps, for the report and `tools/plot.py`.

matplotlib is imported when a chart is drawn, never before, and only its SVG and PNG writers are
used: no window, no global state. In an inline SVG text and axes take the page's text colour.
"""

import io
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from unified_fm import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#3b82c4", "#d9822b", "#3f9e5a", "#a76bb0", "#c2504a", "#5aa5a8", "#8a7a3d", "#7a7f87")
TEXT = "#7f7f80"  # neutral on light and dark; the SVG writer turns it into the page's colour
GRID = "#9a9a9a"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a stream's name is a "$"
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "legend.frameon": False,
}
_WIDTH = 9.6  # of a figure, in inches
_POINTS = 400  # of a curve; more are averaged in equal groups


class Series(NamedTuple):
    """One measurement over a run."""

    steps: np.ndarray  # i[T]
    values: np.ndarray  # f[T], finite


def read_metrics(path: str | os.PathLike) -> dict[str, Series]:
    """Reads metrics.jsonl: one JSON object per line with `step` and numbers by name.

    A run that resumed from an earlier step wrote some steps twice; the later line counts. Lines
    that were cut by a kill or are no such object, and values that are no finite numbers, are left
    out; in names, bytes that are not UTF-8 and half characters are replaced.

    Returns:
        {name: series in the order of steps}; empty if the file does not exist.
    """
    found: dict[str, dict[int, float]] = {}
    path = pathlib.Path(path)
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        for name, step, value in _measured(line):
            found.setdefault(name, {})[step] = value
    return {
        name: Series(np.array(sorted(by_step)), np.array([by_step[s] for s in sorted(by_step)]))
        for name, by_step in found.items()
    }


def _measured(line: bytes) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of every measurement in a line, none if it is damaged."""
    try:
        row = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return
    step = row.get("step") if isinstance(row, dict) else None
    if type(step) is not int or not 0 <= step < 2**63:
        return
    for name, value in row.items():
        number = type(value) is float or (type(value) is int and abs(value) < 2**63)
        if name != "step" and number and math.isfinite(value):
            # Neither half characters nor control characters: no page, no font has them.
            name = name.encode("utf-8", errors="replace").decode("utf-8")
            yield re.sub(r"[\x00-\x1f\x7f]", "?", name), step, float(value)


def curves(
    panels: Mapping[str, Mapping[str, Series]],
    *,
    colours: Mapping[str, str] | None = None,
) -> "Figure":
    """Small multiples: one panel for each name, one line for each of its series.

    Args:
        panels: {panel title: {line label: series}}; labels are shown where a panel has several.
        colours: {panel title: colour of its first line, one of PALETTE}.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.9 * rows), layout="constrained")
        figure.patch.set_alpha(0)
        cast(Any, figure.get_layout_engine()).set(h_pad=0.06, hspace=0.04, wspace=0.03)
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for (title, lines), axis in zip(panels.items(), axes, strict=False):
            first = PALETTE.index((colours or {}).get(title, PALETTE[0]))
            _panel(axis, title, lines, first)
        for axis in list(figure.axes)[len(panels) :]:
            axis.set_visible(False)
    return figure


def heat_map(rows: Mapping[str, Series], *, title: str) -> "Figure":
    """Blocks of the network against steps, such as the cosine of two gradients in each layer.

    `rows` is {block name: series}, drawn from top to bottom in natural order.
    """
    import matplotlib
    from matplotlib.figure import Figure

    names = sorted(rows, key=_natural)
    steps = np.unique(np.concatenate([rows[name].steps for name in names]))
    grid = np.full((len(names), len(steps)), np.nan)
    for number, name in enumerate(names):
        grid[number, np.searchsorted(steps, rows[name].steps)] = rows[name].values
    signed = np.nanmin(grid) < 0
    bound = np.nanmax(np.abs(grid)) or 1.0
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.7 + 0.2 * len(names)), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.subplots()
        axis.patch.set_alpha(0)
        shown = axis.imshow(
            grid,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu" if signed else "viridis",
            vmin=-bound if signed else None,
            vmax=bound if signed else None,
        )
        axis.set_title(title)
        axis.set_yticks(range(len(names)), names)
        ticks = np.unique(np.linspace(0, len(steps) - 1, min(8, len(steps))).round().astype(int))
        axis.set_xticks(ticks, [f"{steps[t]:,}" for t in ticks])
        axis.set_xlabel("step")
        figure.colorbar(shown, ax=axis, pad=0.01).outline.set_visible(False)
    return figure


class Arm(NamedTuple):
    """A number with its interval, in a forest plot."""

    value: float
    low: float
    high: float


class ForestRow(NamedTuple):
    """A line of a forest plot; what is None is not drawn. All of one unit.

    Attributes:
        label: at its left.
        chance, trivial: what a guess and a trivial baseline reach.
        scratch, ours: values of both arms.
        difference: ours minus scratch.
        good: whether the difference is drawn as one that counts.
    """

    label: str
    chance: float | None
    trivial: float | None
    scratch: Arm | None
    ours: Arm | None
    difference: Arm | None
    good: bool


def forest(rows: Sequence[ForestRow], *, ours: str = "pre-trained") -> "Figure":
    """Values at the left, with what a guess reaches; the paired difference at the right."""
    import matplotlib
    from matplotlib.figure import Figure

    places = range(len(rows))[::-1]  # the first row is on top
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.1 + 0.31 * len(rows)), layout="constrained")
        figure.patch.set_alpha(0)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        for axis in (left, right):
            axis.patch.set_alpha(0)
            axis.grid(True, axis="x", color=GRID, alpha=0.25, linewidth=0.5)
            axis.tick_params(axis="y", length=0)
        for place, row in zip(places, rows, strict=True):
            for value, marker, size in ((row.chance, "|", 9.0), (row.trivial, "x", 5.0)):
                if value is not None:
                    left.plot(value, place, marker, color=TEXT, markersize=size)
            _arm(left, row.scratch, place - 0.14, PALETTE[7], filled=False)
            _arm(left, row.ours, place + 0.14, PALETTE[0], filled=True)
            _arm(right, row.difference, place, PALETTE[2 if row.good else 7], filled=row.good)
        right.axvline(0, color=TEXT, linewidth=0.8)
        left.set_yticks(list(places), [row.label for row in rows])
        left.set_ylim(-0.6, len(rows) - 0.4)
        left.set_title("value")
        right.set_title(f"{ours} minus scratch, 95 % interval")
        _forest_legend(figure, left, ours)
    return figure


def _arm(axis: Any, arm: Arm | None, place: float, colour: str, *, filled: bool) -> None:
    if arm is None:
        return
    axis.plot([arm.low, arm.high], [place, place], "-", color=colour, linewidth=1.4)
    face = colour if filled else "none"
    axis.plot(arm.value, place, "o", color=colour, markerfacecolor=face, markersize=4.5)


def _forest_legend(figure: Any, axis: Any, ours: str) -> None:
    marks = (
        ("|", TEXT, TEXT, "chance"),
        ("x", TEXT, TEXT, "trivial baseline"),
        ("o", PALETTE[7], "none", "from scratch"),
        ("o", PALETTE[0], PALETTE[0], ours),
    )
    for marker, colour, face, label in marks:
        axis.plot([], [], marker, color=colour, markerfacecolor=face, markersize=5, label=label)
    # Of the figure, below it: with few rows a legend of the axis would lie on its numbers.
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=4, loc="outside lower left")


def reliability(panels: Mapping[str, Any]) -> "Figure":
    """Accuracy beside confidence, a panel for each of several bins: on the diagonal is right.

    Args:
        panels: {title: bins of equal width over 0..1, with `count`, `confidence` and `accuracy`,
            each [M], as `evaluators.base.ReliabilityExample` has them}.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * 0.7, 3.1), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (title, bins) in zip(axes, panels.items(), strict=True):
            width, some = 1 / len(bins.count), bins.count > 0
            middle = (np.arange(len(bins.count)) + 0.5) * width
            axis.patch.set_alpha(0)
            axis.grid(True, color=GRID, alpha=0.25, linewidth=0.5)
            axis.plot([0, 1], [0, 1], color=TEXT, linewidth=0.8, linestyle="--")
            shares = bins.count / max(bins.count.sum(), 1)
            axis.bar(middle, shares, width, color=PALETTE[7], alpha=0.35, label="share of answers")
            axis.plot(
                bins.confidence[some],
                bins.accuracy[some],
                "o-",
                color=PALETTE[0],
                markersize=4,
                linewidth=1.4,
                label="accuracy",
            )
            axis.set(title=title, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        axes[0].legend(fontsize=8)
    return figure


def to_svg(figure: "Figure", *, salt: str = "") -> str:
    """The figure as an `<svg>` element to be put into a page.

    Its text and axes take the colour of the surrounding text. `salt` keeps the ids of several
    figures of one page apart.
    """
    import matplotlib

    page = io.StringIO()
    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        figure.savefig(page, format="svg", metadata={"Date": None, "Creator": None})
    text = page.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace(TEXT, "currentColor")


def save(figure: "Figure", path: str | os.PathLike) -> None:
    """Writes the figure to a .png or .svg file, whole or not at all."""
    import matplotlib

    path = pathlib.Path(path)
    with files.whole(path) as temporary, matplotlib.rc_context(_STYLE):
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, facecolor="white")


def _panel(axis: Any, title: str, lines: Mapping[str, Series], first: int) -> None:
    axis.patch.set_alpha(0)
    axis.grid(True, color=GRID, alpha=0.25, linewidth=0.5)
    axis.set_title(title)
    for number, (label, series) in enumerate(lines.items()):
        colour = PALETTE[(first + number) % len(PALETTE)]
        steps, values = _thinned(series)
        smooth = _smoothed(values)
        axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.7)
        axis.plot(steps, smooth, color=colour, linewidth=1.6, label=label)
        if len(lines) == 1:
            axis.annotate(
                f"{smooth[-1]:.4g}",
                (1, 1.03),
                xycoords="axes fraction",
                ha="right",
                va="bottom",
                color=colour,
                fontsize=9.5,
            )
    if len(lines) > 1:
        axis.legend(fontsize=8)
    axis.margins(x=0.02)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.locator_params(nbins=5)


def _thinned(series: Series) -> Series:
    """At most _POINTS points: means of equal groups of neighbours."""
    group = -(-len(series.steps) // _POINTS)
    if group <= 1:
        return series
    starts = np.arange(0, len(series.steps), group)
    sizes = np.diff(np.append(starts, len(series.steps)))
    means = [np.add.reduceat(x.astype(float), starts) / sizes for x in series]
    return Series(*means)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the curve, cut off at both ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]


def by_prefix(names: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """Names below `prefix`, grouped by the next part: {"cosine": ["telemetry/cosine/...", ...]}."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(prefix):
            groups.setdefault(name[len(prefix) :].split("/")[0], []).append(name)
    return groups
