"""The report of a run: one self-contained HTML file, no scripts, nothing fetched.

Everything that comes from data or configuration is escaped by the template engine; only the charts
drawn here are inserted as they are. Images are inline PNG, boxes are drawn over them as SVG.
"""

import base64
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from unified_fm import files
from unified_fm.evaluators import base
from unified_fm.report import charts
from unified_fm.report.table import format_metric

_PAGE = pathlib.Path(__file__).with_name("page.html.j2")
_STYLE = _PAGE.with_name("style.css")
_LARGEST = 192  # pixels of the longer side of an embedded image; smaller ones stay as they are
_MAX_PANELS = 24


def write_report(
    path: str | os.PathLike,
    *,
    config: Mapping[str, Any],
    metrics_path: str | os.PathLike,
    results: Sequence[base.Metric] = (),
    examples: Mapping[str, Sequence[Any]] | None = None,
    facts: Mapping[str, Any] | None = None,
    records: Mapping[str, str] | None = None,
    title: str = "Run",
) -> None:
    """Writes the report; a reader of an older one never sees half a file.

    Args:
        path: the HTML file.
        config: the run's configuration as nested dicts; `streams` becomes the table of streams.
        metrics_path: metrics.jsonl; a missing file gives a report without curves. Names
            "STREAM/OBJECTIVE" are losses, "telemetry/MEASURE/BLOCK" become heat maps.
        results: metrics with full names, such as `evaluators.base.run_all` gives.
        examples: {evaluator name: retrieval, box and word examples}.
        facts: short lines for the head (steps, time, device, parameters).
        records: {stream: its used and skipped records in one line}.
        title: of the page.
    """
    series = charts.read_metrics(metrics_path)
    page = render(
        _PAGE,
        title=title,
        facts=dict(facts or {}),
        streams=_streams(config, records or {}),
        settings=sorted((name, str(value)) for name, value in flat(config)),
        results=_results(results),
        charts=list(_charts(config, series)),
        sections=list(_sections(examples or {})),
    )
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, page)


def render(template: pathlib.Path, **content: Any) -> bytes:
    """A page of this template and content, in the style of all our pages, as UTF-8."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = markupsafe.Markup(_STYLE.read_text("utf-8"))
    page = environment.from_string(template.read_text("utf-8")).render(style=style, **content)
    # Names and captions may hold half characters, which no UTF-8 can carry: they become "?".
    return page.encode("utf-8", errors="replace")


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b.c", value) of nested dicts; an empty dict is a value."""
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree


def _streams(config: Mapping[str, Any], records: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each stream: what it reads, how much of it, what was skipped and is learnt."""
    rows = []
    for name, stream in (config.get("streams") or {}).items():
        source = stream.get("source", "")
        objectives = []
        for objective, options in (stream.get("objectives") or {}).items():
            weight = options.get("weight", 1.0) if isinstance(options, Mapping) else options
            if isinstance(weight, Mapping):  # it changes: its curve is among the others
                objectives.append(f"{objective} x a {weight.get('name', 'linear')} schedule")
            else:
                objectives.append(objective if weight == 1 else f"{objective} x {weight:g}")
        rows.append(
            {
                "name": name,
                "pipeline": stream.get("pipeline", ""),
                "source": source if isinstance(source, str) else " + ".join(map(str, source)),
                "batch_size": stream.get("batch_size", ""),
                "objectives": ", ".join(objectives),
                "records": records.get(name, ""),
            }
        )
    return rows


def _results(metrics: Iterable[base.Metric]) -> list[dict[str, Any]]:
    """Rows of the table: text of the numbers and, for what lies in 0..1, lengths of a bar."""
    rows = []
    for metric in metrics:
        group, _, name = metric.name.partition("/")
        value, chance = format_metric(metric)
        drawn = metric.better == "higher" and 0 <= metric.value <= 1
        rows.append(
            {
                "group": group if name else "",
                "name": (name or group).replace("_", " "),
                "value": value.replace("+-", "±"),
                "chance": chance,
                "chance_is": metric.chance_is,
                "how": metric.how,
                "lower": metric.better == "lower",
                "bar": round(100 * metric.value, 1) if drawn else None,
                "mark": round(100 * metric.chance, 1) if drawn and metric.chance else None,
            }
        )
    return rows


def _charts(
    config: Mapping[str, Any], series: Mapping[str, charts.Series]
) -> Iterator[dict[str, Any]]:
    """Loss curves, other curves, and heat maps of whatever telemetry there is."""
    losses, colours = {}, {}
    for number, (stream, options) in enumerate((config.get("streams") or {}).items()):
        for objective in options.get("objectives") or {}:
            name, title = f"{stream}/{objective}", f"{stream} · {objective}"
            if name in series:
                losses[title] = {name: series[name]}
                colours[title] = charts.PALETTE[number % len(charts.PALETTE)]
    shown = {name for lines in losses.values() for name in lines}
    rest = {
        name: {name: line}
        for name, line in sorted(series.items())
        if name not in shown
        and not name.startswith(("telemetry/", "time/"))  # of time the head says it all
        and len(line.steps) > 1
    }
    for title, panels in (("Losses", losses), ("Other measurements", rest)):
        if panels:
            kept = dict(list(panels.items())[:_MAX_PANELS])
            yield _chart(title, charts.curves(kept, colours=colours), folded=title != "Losses")
    for measure, names in charts.by_prefix(series, "telemetry/").items():
        prefix = f"telemetry/{measure}/"
        rows = {name.removeprefix(prefix): series[name] for name in names}
        yield _chart(f"Telemetry: {measure}", charts.heat_map(rows, title=measure))


def _chart(title: str, figure: Any, *, folded: bool = False) -> dict[str, Any]:
    # The charts are our own output; matplotlib escapes the names in them.
    svg = markupsafe.Markup(charts.to_svg(figure, salt=title))
    return {"title": title, "svg": svg, "folded": folded}


def _sections(examples: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """One section for each evaluator and kind of example, with what the template shows of it."""
    kinds = {
        "captions": _captions,
        "images": _images,
        "boxes": _box,
        "words": _word,
        "reliability": _reliability,
    }
    for name, some in examples.items():
        for kind, prepare in kinds.items():
            rows = [prepare(example) for example in some if _kind(example) == kind]
            if rows:
                yield {"name": name, "kind": kind, "rows": rows}


def _kind(example: Any) -> str:
    if isinstance(example, base.ReliabilityExample):
        return "reliability"
    if isinstance(example, base.RetrievalExample):
        return "captions" if example.image is not None else "images"
    return "boxes" if isinstance(example, base.BoxExample) else "words"


def _captions(example: base.RetrievalExample) -> dict[str, Any]:
    return {
        "image": picture(example.image),
        "candidates": list(zip(example.candidates, example.correct, strict=True)),
        "truth": None if any(example.correct) else list(example.truth),
    }


def _images(example: base.RetrievalExample) -> dict[str, Any]:
    pictures = map(picture, example.candidates)
    return {
        "caption": example.caption,
        "candidates": list(zip(pictures, example.correct, strict=True)),
        "truth": None if any(example.correct) else [picture(image) for image in example.truth],
    }


def _box(example: base.BoxExample) -> dict[str, Any]:
    return {
        "image": picture(example.image),
        "phrase": example.phrase,
        "iou": f"{example.iou:.2f}",
        "good": example.iou > 0.5,
        "predicted": _corners(example.predicted),
        "target": _corners(example.target),
    }


def _word(example: base.WordExample) -> dict[str, Any]:
    return {
        "image": None if example.image is None else picture(example.image),
        "caption": example.caption,
        "word": example.word,
        "guesses": [
            {"word": word, "percent": round(100 * share), "right": word.strip() == example.word}
            for word, share in example.guesses
        ],
    }


def _reliability(example: base.ReliabilityExample) -> dict[str, Any]:
    panels = {
        f"T = 1: expected calibration error {100 * example.error:.1f} %": example.plain,
        f"T = {example.temperature:.3g}: {100 * example.error_fitted:.1f} %": example.fitted,
    }
    # All of it is our own: numbers, no names.
    svg = charts.to_svg(charts.reliability(panels), salt=f"reliability {example.temperature}")
    return {"svg": markupsafe.Markup(svg)}


def _corners(box: Any) -> dict[str, float]:
    """(cx, cy, w, h) in 0..1 as left, top, width, height in percent of the picture."""
    cx, cy, w, h = (float(np.clip(np.nan_to_num(v), -1, 2)) for v in box)
    return {
        name: round(100 * value, 2)
        for name, value in (("x", cx - w / 2), ("y", cy - h / 2), ("w", w), ("h", h))
    }


def picture(image: Any) -> dict[str, Any]:
    """An image u8[H W 3] as the `source` of an `<img>`, and whether it is `small`."""
    shown = Image.fromarray(np.asarray(image, np.uint8))
    shown.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    shown.save(file, format="PNG", optimize=True)
    return {
        "source": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii"),
        "small": max(shown.size) <= 96,
    }
