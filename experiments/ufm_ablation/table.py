"""The table of all arms, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.ufm_ablation import conclusions
from experiments.ufm_ablation.conclusions import METRICS, Metric, Scores
from experiments.ufm_ablation.statistics import Interval, interval, paired

SCRATCH = "scratch"


def write(scores: Scores, about: Mapping[str, str], floors: Mapping[str, float], seeds: int) -> str:
    """Three tables: the scores, and the paired differences against `joint` and separate training.

    Args:
        scores: of every arm.
        about: {arm: what it is}.
        floors: {metric: what a guess without looking reaches}.
        seeds: of every arm.
    """
    parts = [
        f"Mean of {seeds} seeds and the half width of its 95 % interval (t). Losses in nats on "
        "held-out examples, lower is better; accuracies after fine-tuning in %, higher is better.",
        "",
        *_rows(
            {arm: [_score(scores[arm].get(key), metric) for key, metric in METRICS.items()]
             for arm in scores},
            about,
        ),
        f"| *without looking* | {' | '.join(_plain(floors[k], m) for k, m in METRICS.items())} | |",
        "",
        "Differences, seed by seed: mean [95 % interval]; bold where the interval excludes 0.",
        "",
        "Against `joint`:",
        "",
        *_rows(_differences(scores, lambda metric: "joint"), about),
        "",
        "Against separate training (`vit_only` on images, `bert_only` on text):",
        "",
        *_rows(_differences(scores, lambda metric: metric.separate), about),
    ]  # fmt: skip
    return "\n".join([*parts, ""])


def summary(scores: Scores) -> dict[str, Any]:
    """The same numbers for `results.json`: {arm: {metric: mean, ends, differences}}."""

    def ends(found: Interval):
        return {"mean": found.mean, "low": found.low, "high": found.high}

    found: dict[str, Any] = {}
    for arm, measured in scores.items():
        found[arm] = {}
        for key, metric in METRICS.items():
            if key not in measured:
                continue
            entry = ends(interval(measured[key]))
            for what, other in (("joint", "joint"), ("separate", metric.separate)):
                if other != arm and key in scores.get(other, {}):
                    entry[f"minus_{what}"] = ends(paired(measured[key], scores[other][key]))
            found[arm][key] = entry
    return found


def _differences(scores: Scores, reference) -> dict[str, list[str]]:
    found = {}
    for arm, measured in scores.items():
        cells = []
        for key, metric in METRICS.items():
            other = reference(metric)
            usable = other != arm and key in measured and key in scores.get(other, {})
            cells.append(_difference(measured[key], scores[other][key], metric) if usable else "")
        if any(cells):
            found[arm] = cells
    return found


def _rows(cells: Mapping[str, Sequence[str]], about: Mapping[str, str]) -> list[str]:
    titles = " | ".join(metric.title for metric in METRICS.values())
    lines = [f"| arm | {titles} | what it is |", "| --- |" + " ---: |" * len(METRICS) + " --- |"]
    return lines + [f"| {a} | {' | '.join(row)} | {about[a]} |" for a, row in cells.items()]


def _score(values: Sequence[float] | None, metric: Metric) -> str:
    if values is None:
        return ""
    found = interval(values)
    half = found.high - found.mean
    return f"{_plain(found.mean, metric)} ± {_plain(half, metric)}"


def _plain(value: float, metric: Metric) -> str:
    return f"{100 * value:.2f}" if metric.unit == "%" else f"{value:.4f}"


def _difference(values, others, metric: Metric) -> str:
    found = paired(values, others)
    mean = f"{100 * found.mean:+.2f}" if metric.unit == "%" else f"{found.mean:+.4f}"
    text = f"{mean} {conclusions.ends(found, metric)}"
    return f"**{text}**" if found.excludes_zero else text
