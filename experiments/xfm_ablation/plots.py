"""The figures of the X-FM ablation: every arm against `full` in three panels, and losses."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import figures
from experiments.statistics import interval
from experiments.xfm_ablation.arms import COUNTED
from experiments.xfm_ablation.conclusions import POINT, SDS, Tested, margin, primary
from experiments.xfm_ablation.endpoints import VISION, VL, WORDS, Endpoints

_TITLES = {
    WORDS: ("Language: masked words", "nats more than full (left: better)"),
    VISION: ("Vision: mean of three linear probes", "points more than full (right: better)"),
    VL: ("Vision and language: composite", "SDs more than full (right: better)"),
}
# {title: the losses of training that stand in it, whichever an arm has}
_LOSSES = {
    "text: masked words": ("text/mlm",),
    "images: each towards its own target": ("image/mim", "image/pixels"),
    "pairs: masked words over images": ("pairs/imlm",),
}


def forest(endpoints: Endpoints, *, final: bool = True) -> str:
    """The forest plot as SVG text: in each panel a row for an arm, a dot for each seed.

    Before all seeds are there nothing is marked.
    """
    tests = primary(endpoints)
    if not final:
        tests = {name: dataclasses.replace(t, rejected=False) for name, t in tests.items()}
    bands = {WORDS: margin(endpoints), VISION: POINT, VL: SDS}
    return figures.forest(
        [_panel(endpoints, tests, name, band) for name, band in bands.items()],
        legend="Dots: seeds. Lines: 95 % intervals. Green: what counts as little, by A1, B and A3."
        " Blue arms are of no rule.",
    )


def _panel(
    endpoints: Endpoints, tests: Mapping[str, Tested], endpoint: str, band: float
) -> figures.Panel:
    title, axis = _TITLES[endpoint]
    asked = {test.reference: test for test in tests.values() if test.endpoint == endpoint}
    rows = []
    for arm in endpoints.arms:
        more = endpoints.values(endpoint, {arm: 1, "full": -1})
        if arm == "full" or not len(more):
            continue
        rows.append(
            figures.Row(
                label=arm,
                dots=[float(x) for x in more],
                interval=interval(more) if len(more) > 1 else None,
                band=(-band, band) if arm in asked else None,
                note="(Holm)" if arm in asked and asked[arm].rejected else "",
                strong=arm in COUNTED,
            )
        )
    return figures.Panel(title=title, axis=axis, rows=rows, marks={0.0: "full"}, digits=3)


def curves(found: Mapping[str, Any]) -> str:
    """Losses of training as SVG text, each arm's mean over its seeds."""
    panels: dict[str, dict[str, list[float]]] = {title: {} for title in _LOSSES}
    for arm, entry in found["arms"].items():
        logs = [seed.get("curves", {}) for seed in entry["seeds"].values()]
        for title, names in _LOSSES.items():
            lines = [log[name] for log in logs for name in names if len(log.get(name, ())) > 1]
            if lines:
                panels[title][arm] = np.mean(lines, axis=0).tolist()
    drawn = {title: lines for title, lines in panels.items() if lines}
    arms = [arm for arm in found["arms"] if any(arm in lines for lines in drawn.values())]
    return figures.curves(drawn, arms=arms, steps=found["settings"]["total_steps"])
