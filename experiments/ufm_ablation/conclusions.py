"""The report of version 2: from the numbers to sentences, by the rules of its pre-registration.

A lower loss is better; differences are seed by seed. Until all seeds of a look are there, the
report is interim and decides nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.statistics import Interval, holm, interval, p_value, share

LOSSES = {"image": "drawings/image/classify", "text": "words/cross_entropy"}
PROBES = ("objects/accuracy", "digits/accuracy", "topics/accuracy")
SEPARATE = {"image": "vit_only", "text": "bert_only"}
FULL = "joint_kd_igm"  # the paper's method: teachers and masks
LOOKS = (8, 16)  # seeds at which it may be decided
ALPHA = 0.05 / len(LOOKS)  # of all primary contrasts at one look
HALF = 0.5  # the share of what joint training loses that has to be repaired
WIDTH = 0.2  # of the deficit: less than that is no difference, and no loss elsewhere
NATS = 0.05  # the loss that is none where joint training has no deficit


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A primary contrast: {arm: factor} of the losses of one stream, and its sign by the claim."""

    stream: str
    factors: Mapping[str, float]
    sign: str


def _minus(stream: str, arm: str, reference: str, sign: str = "below 0") -> Contrast:
    return Contrast(stream, {arm: 1, reference: -1}, sign)


CONTRASTS: Mapping[str, Contrast] = {
    "H1a": _minus("text", "joint", "bert_only", "above 0"),
    "H1b": _minus("image", "joint", "vit_only", "above 0"),
    "H2": _minus("text", FULL, "joint"),
    "H3": _minus("text", "joint_kd", "joint"),
    "H4": Contrast("text", {"joint_kd": 1, "joint": -1, "bert_kd": -1, "bert_only": 1}, "below 0"),
    "H5": _minus("text", "joint_igm", "joint_igm_random"),
    "H6": _minus("text", "joint_per_task_adam", "joint"),
}


class Scores:
    """The scores of results.json, but for arms that are void."""

    def __init__(self, found: Mapping[str, Any]):
        self.void = [arm for arm, entry in found["arms"].items() if entry["void"]]
        self._of = {
            arm: {seed: each["scores"] for seed, each in entry["seeds"].items()}
            for arm, entry in found["arms"].items()
            if arm not in self.void
        }
        self.arms = list(self._of)
        self.seeds = min((len(seeds) for seeds in self._of.values()), default=0)

    def of(self, arm: str, metric: str) -> list[float]:
        """Of all seeds of an arm; none if it has no such metric."""
        return [scores[metric] for scores in self._of.get(arm, {}).values() if metric in scores]

    def values(self, stream: str, factors: Mapping[str, float]) -> np.ndarray:
        """f64[n], a combination of arms for each seed that all of them have; n = 0 without one."""
        if not set(factors) <= set(self._of):
            return np.zeros(0)
        common = [s for s in self._of[min(factors)] if all(s in self._of[arm] for arm in factors)]
        return np.array(
            [sum(f * self._of[a][s][LOSSES[stream]] for a, f in factors.items()) for s in common]
        )


def write(found: Mapping[str, Any], *, shows_nothing: bool = False) -> str:
    """The report as Markdown.

    Args:
        found: what results.json holds.
        shows_nothing: the run was too short to be of any worth.
    """
    scores = Scores(found)
    final = scores.seeds in LOOKS and not shows_nothing
    head = f"n = {scores.seeds}"
    if not final:
        head = f"interim, {head}, no decision"
    if shows_nothing:
        head += ": a try of a few steps, which shows nothing"
    parts = ["# UFM ablation, version 2", "", f"**{head}.**", ""]
    parts += [f"`{arm}` is void: a step was not finite.\n" for arm in scores.void]
    parts += [*_table(scores, found["floors"]), "", "## Primary contrasts", ""]
    parts += [*contrasts(scores), "", "## What joint training loses, and who repairs it", ""]
    parts += [f"- {line}" for stream in LOSSES for line in _repairs(scores, stream)]
    if final:
        parts += ["", "## Decision", ""]
        parts += [f"- {stream}: **{decision(scores, stream)}**." for stream in LOSSES]
        parts += [f"- Gradient masking: **{masking(scores)}**."]
    return "\n".join([*parts, ""])


def contrasts(scores: Scores) -> list[str]:
    """The table of the primary contrasts; what was not run counts as a test that rejects nothing.

    Marked (Holm): the test survives Holm's correction over all of them, in the claim's direction.
    """
    values = {name: scores.values(c.stream, c.factors) for name, c in CONTRASTS.items()}
    rejected = _rejected(values)
    rows = ["| | stream | contrast | claim | mean [95 %] | |", "| --- " * 6 + "|"]
    for name, contrast in CONTRASTS.items():
        terms = " ".join(
            f"{'+' if factor > 0 else '-'} {arm}" for arm, factor in contrast.factors.items()
        )
        said = _nats(interval(values[name])) if len(values[name]) > 1 else "not run"
        mark = "(Holm)" if name in rejected else ""
        mark += f" {same(scores)}" if name == "H5" and same(scores) else ""
        cells = [name, contrast.stream, terms, contrast.sign, said, mark]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _rejected(values: Mapping[str, np.ndarray]) -> set[str]:
    """The contrasts that are as the claim says, after Holm's correction."""
    tests = [p_value(found) if len(found) > 1 else 1.0 for found in values.values()]
    return {
        name
        for name, sure in zip(values, holm(tests, ALPHA), strict=True)
        if sure and (values[name].mean() > 0) == (CONTRASTS[name].sign == "above 0")
    }


def deficit(scores: Scores, stream: str) -> Interval | None:
    """What `joint` loses against separate training; None if H1 does not show that it does."""
    values = {name: scores.values(c.stream, c.factors) for name, c in CONTRASTS.items()}
    name = {"text": "H1a", "image": "H1b"}[stream]
    return interval(values[name]) if name in _rejected(values) else None


def repaired(scores: Scores, stream: str, arm: str) -> Interval | None:
    """R = (joint - arm) / (joint - separate), by Fieller; None if there is nothing to repair."""
    if deficit(scores, stream) is None or arm not in scores.arms:
        return None
    part, whole = {"joint": 1, arm: -1}, {"joint": 1, SEPARATE[stream]: -1}
    # Over the seeds that all three have, for the ratio is of paired means.
    pair = [
        scores.values(stream, {**dict.fromkeys((*part, *whole), 0), **f}) for f in (part, whole)
    ]
    return share(*pair) if len(pair[0]) > 1 else None


def decision(scores: Scores, stream: str) -> str:
    """Whether the full method comes close to separate training on a stream, at no other's cost.

    The other stream pays if it may have lost more against `joint` than is allowed.
    """
    part = repaired(scores, stream, FULL)
    if FULL not in scores.arms:
        return "not run"
    if part is None:
        return "nothing to repair"
    if part.high < HALF:
        return "refuted"
    other = {"image": "text", "text": "image"}[stream]
    lost, whole = scores.values(other, {FULL: 1, "joint": -1}), deficit(scores, other)
    allowed = NATS if whole is None else WIDTH * whole.mean
    spared = len(lost) > 1 and interval(lost).high <= allowed
    return "confirmed" if part.low >= HALF and spared else "undecided"


def same(scores: Scores) -> str:
    """H5: "better", "equivalent", or "" where neither is shown."""
    values, whole = scores.values("text", CONTRASTS["H5"].factors), deficit(scores, "text")
    if len(values) < 2:
        return ""
    if interval(values).high < 0:
        return "better"
    band = interval(values, 0.9)
    inside = whole is not None and max(-band.low, band.high) <= WIDTH * whole.mean
    return "equivalent" if inside else ""


def masking(scores: Scores) -> str:
    """Needs a gain over tuned weights, and chosen entries that beat random ones."""
    gain = scores.values("text", {"joint_igm": 1, "joint_static": -1})
    if len(gain) < 2 or interval(gain).high >= 0:
        return "not confirmed"
    said = {"better": "confirmed", "equivalent": "partition helps, selection does not"}
    return said.get(same(scores), "not confirmed")


def _repairs(scores: Scores, stream: str) -> Iterable[str]:
    whole = deficit(scores, stream)
    if whole is None:
        yield f"{stream}: `joint` is not shown to lose against `{SEPARATE[stream]}`"
        return
    yield f"{stream}: `joint` loses {_nats(whole)} nats against `{SEPARATE[stream]}`"
    for arm in scores.arms:
        if arm.startswith("joint_") and (part := repaired(scores, stream, arm)):
            ends = f"[{100 * part.low:+.0f}, {100 * part.high:+.0f}]"
            yield f"{stream}: `{arm}` repairs {100 * part.mean:.0f} % {ends}"


def _table(scores: Scores, floors: Mapping[str, float]) -> list[str]:
    metrics = [*LOSSES.values(), *PROBES]
    rows = [f"| arm | {' | '.join(metrics)} |", "| --- |" + " ---: |" * len(metrics)]
    for arm in scores.arms:
        cells = [_mean(scores.of(arm, metric)) for metric in metrics]
        rows.append(f"| {arm} | {' | '.join(cells)} |")
    guesses = [f"{floors[metric]:.4f}" if metric in floors else "" for metric in metrics]
    return [*rows, f"| *without looking* | {' | '.join(guesses)} |"]


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else ""
    found = interval(values)
    return f"{found.mean:.4f} ± {found.high - found.mean:.4f}"


def _nats(found: Interval) -> str:
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
