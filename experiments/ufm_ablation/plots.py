"""The two figures of the UFM ablation: which share of the deficit each arm repairs, and losses."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import figures
from experiments.statistics import Interval, interval
from experiments.ufm_ablation.conclusions import (
    CONTRASTS,
    FULL,
    LOSSES,
    SEPARATE,
    WIDTH,
    Scores,
    deficit,
    rejected,
    repaired,
)

_PAIR = ("joint_igm", "joint_igm_random")  # H5: chosen entries, and drawn ones
_TRAINING = {"image": "image/classify", "text": "text/mlm"}


def forest(scores: Scores, *, final: bool = True) -> str:
    """The forest plot as SVG text: a row for each arm and stream, a dot for each seed.

    Before the look that decides all is in nats, and nothing is marked.
    """
    legend = "Dots: seeds. Lines: 95 % intervals."
    if final:
        legend = (
            "Dots: seeds, of (joint - arm) over the mean of (joint - separate). Lines: 95 %"
            f" intervals. Green: within {100 * WIDTH:.0f} % of {_PAIR[1]}, no difference by H5."
        )
    return figures.forest([_panel(scores, stream, final) for stream in LOSSES], legend=legend)


def _panel(scores: Scores, stream: str, final: bool) -> figures.Panel:
    """In shares of what `joint` loses; in nats where it is not shown to lose."""
    whole = deficit(scores, stream) if final else None
    rows = []
    for arm in scores.arms:
        gain = scores.values(stream, {"joint": 1, arm: -1})
        if arm not in ("joint", "scratch") and len(gain):
            rows.append(_row(scores, stream, arm, gain, whole, final))
    if whole is None:
        lost = f"joint is not shown to lose against {SEPARATE[stream]}"
        return figures.Panel(
            title=f"{stream}: {lost if final else 'arms against joint, so far'}",
            axis="nats gained against joint (right: better)",
            rows=rows,
            marks={0.0: "joint"},
            digits=3,
        )
    return figures.Panel(
        title=f"{stream}: joint loses {whole.mean:.3f} nats against {SEPARATE[stream]}",
        axis="share of that which is repaired",
        rows=rows,
        marks={0.0: "joint", 0.5: "half", 1.0: "separate"},
    )


def _row(
    scores: Scores, stream: str, arm: str, gain: np.ndarray, whole: Interval | None, final: bool
):
    unit = 1.0 if whole is None else whole.mean
    if whole is None:
        found = interval(gain) if len(gain) > 1 else None
    elif arm == SEPARATE[stream]:
        found = Interval(1.0, whole.low / unit, whole.high / unit)
    else:
        found = repaired(scores, stream, arm)
    return figures.Row(
        label=arm,
        dots=[float(x) / unit for x in gain],
        interval=found,
        band=_band(scores, stream, arm, whole),
        note="(Holm)" if final and _survives(scores, stream, arm) else "",
        strong=arm == FULL,
    )


def _survives(scores: Scores, stream: str, arm: str) -> bool:
    """Whether a primary contrast of this arm and `joint` alone survives Holm's correction."""
    return any(
        CONTRASTS[name].stream == stream and set(CONTRASTS[name].factors) == {arm, "joint"}
        for name in rejected(scores)
    )


def _band(scores: Scores, stream: str, arm: str, whole: Interval | None):
    if arm not in _PAIR or whole is None or stream != CONTRASTS["H5"].stream:
        return None
    gain = scores.values(stream, {"joint": 1, _PAIR[1]: -1})
    middle = float(np.mean(gain)) / whole.mean if len(gain) else None
    return None if middle is None else (middle - WIDTH, middle + WIDTH)


def curves(found: Mapping[str, Any]) -> str:
    """Losses of training as SVG text, each arm's mean over its seeds; the KD is not in them."""
    panels: dict[str, dict[str, list[float]]] = {stream: {} for stream in _TRAINING}
    for arm, entry in found["arms"].items():
        for stream, name in _TRAINING.items():
            lines = [
                seed["curves"][name]
                for seed in entry["seeds"].values()
                if len(seed.get("curves", {}).get(name, ())) > 1
            ]
            if lines:
                panels[stream][arm] = np.mean(lines, axis=0).tolist()
    titles = {"image": "images: cross-entropy of classes", "text": "text: cross-entropy of words"}
    steps = found.get("settings", {}).get("total_steps", 1)
    drawn = {titles[stream]: lines for stream, lines in panels.items() if lines}
    arms = [arm for arm in found["arms"] if any(arm in lines for lines in drawn.values())]
    return figures.curves(drawn, arms=arms, steps=steps)
