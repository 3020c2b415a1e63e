"""From the numbers to decisions, by the rules of the pre-registration, which the README has.

A lower loss is better; differences are seed by seed. `report.py` says in words what comes out.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.statistics import Interval, holm, interval, p_value, share
from experiments.ufm_ablation.arms import arms as planned

LOSSES = {"image": "drawings/image/classify", "text": "words/cross_entropy"}
PROBES = ("objects/accuracy", "digits/accuracy", "topics/accuracy")
OTHER = {"image": "text", "text": "image"}
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

LOSES = {"text": "H1a", "image": "H1b"}  # that `joint` loses against separate training


class Scores:
    """The scores of results.json, but for arms that are void.

    A look is at the first seeds of all arms alike: what some have beyond it waits for the next one.

    Attributes:
        void: names of the arms of which a step was not finite.
        arms: names of the others.
        seeds: how many, from 0 on, every arm of the plan has that is not void.
        gate: what the gate has found, as `outcome.read` gives it.
    """

    def __init__(
        self,
        found: Mapping[str, Any],
        gate: Mapping[str, Any] | None = None,
        looks: Sequence[int] = LOOKS,
    ):
        self.gate = gate or {}
        self.void = [arm for arm, entry in found["arms"].items() if entry["void"]]
        self._of = {
            arm: {seed: each["scores"] for seed, each in entry["seeds"].items()}
            for arm, entry in found["arms"].items()
            if arm not in self.void
        }
        self.arms = list(self._of)
        asked = [arm for arm in planned() if arm not in self.void]
        everywhere = set.intersection(*(set(self._of.get(arm, ())) for arm in asked))
        self.seeds = next(n for n in itertools.count() if str(n) not in everywhere)
        if self.seeds >= looks[0]:
            self.seeds = max(n for n in looks if n <= self.seeds)
            first = [str(n) for n in range(self.seeds)]
            self._of = {
                arm: {seed: of[seed] for seed in first if seed in of}
                for arm, of in self._of.items()
            }

    def of(self, arm: str, metric: str) -> list[float]:
        """Of all seeds of an arm; none if it has no such metric."""
        return [scores[metric] for scores in self._of.get(arm, {}).values() if metric in scores]

    def ran(self, arm: str) -> bool:
        """Whether an arm has a seed, and is not void."""
        return bool(self._of.get(arm))

    def testable(self, stream: str) -> bool:
        """Whether the stream passes the gate at the chosen size, or there was none."""
        return self.gate.get("passes", {}).get(stream, True)

    def absent(self, stream: str, *arms: str) -> str:
        """Why arms cannot be compared on a stream: "joint is void"; "" where they can."""
        lacks = [arm for arm in arms if arm in self.void]
        gone = [arm for arm in arms if arm not in lacks and len(self.of(arm, LOSSES[stream])) < 2]
        return ", ".join(
            [*(f"{arm} is void" for arm in lacks), *(f"{arm} was not run" for arm in gone)]
        )

    def of_contrast(self, name: str) -> np.ndarray:
        """f64[n], a primary contrast for each seed."""
        return self.values(CONTRASTS[name].stream, CONTRASTS[name].factors)

    def values(self, stream: str, factors: Mapping[str, float]) -> np.ndarray:
        """f64[n], a combination of arms for each seed that all of them have; n = 0 without one."""
        metric = LOSSES[stream]
        of = {
            arm: {
                s: scores[metric] for s, scores in self._of.get(arm, {}).items() if metric in scores
            }
            for arm in factors
        }
        common = [s for s in of[min(factors)] if all(s in seeds for seeds in of.values())]
        return np.array([sum(f * of[arm][s] for arm, f in factors.items()) for s in common])


def counted(found: Mapping[str, Any], gate: Mapping[str, Any] | None = None) -> Scores:
    """The scores of results.json at the look that decides: the second one only if the first asks.

    Args:
        found: what it holds.
        gate: what gate.json holds.
    """
    first = Scores(found, gate, LOOKS[:1])
    return Scores(found, gate) if look(first) == "extended" else first


def look(scores: Scores) -> str:
    """Whether it may be decided: "interim", "final", or "extended": the second look has to.

    Interim: the seeds of no look are there.
    """
    if scores.seeds not in LOOKS:
        return "interim"
    return "extended" if scores.seeds == LOOKS[0] and open_contrasts(scores) else "final"


def open_contrasts(scores: Scores) -> list[str]:
    """The primary contrasts whose interval contains both 0 and half of what `joint` loses.

    The interval has the level of one look; differences are counted in the claim's direction. On a
    stream where `joint` loses nothing on average there is no half of it.
    """
    found = []
    for name, contrast in CONTRASTS.items():
        values, lost = scores.of_contrast(name), scores.of_contrast(LOSES[contrast.stream])
        if len(values) < 2 or not len(lost) or lost.mean() <= 0:
            continue
        sign = 1 if contrast.sign == "above 0" else -1
        made = interval(sign * values, 1 - ALPHA)
        if made.low <= 0 <= made.high and made.low <= HALF * lost.mean() <= made.high:
            found.append(name)
    return found


def rejected(scores: Scores) -> set[str]:
    """The primary contrasts that are as the claim says, after Holm's correction over all of them.

    What was not run counts as a test that rejects nothing.
    """
    values = {name: scores.of_contrast(name) for name in CONTRASTS}
    tests = [p_value(found) if len(found) > 1 else 1.0 for found in values.values()]
    return {
        name
        for name, sure in zip(values, holm(tests, ALPHA), strict=True)
        if sure and (values[name].mean() > 0) == (CONTRASTS[name].sign == "above 0")
    }


def deficit(scores: Scores, stream: str) -> Interval | None:
    """What `joint` loses against separate training; None if H1 does not show that it does."""
    name = LOSES[stream]
    return interval(scores.of_contrast(name)) if name in rejected(scores) else None


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


def paid(scores: Scores, stream: str, arm: str) -> Interval | None:
    """What an arm loses on a stream against `joint`; None where fewer than two seeds have both."""
    lost = scores.values(stream, {arm: 1, "joint": -1})
    return interval(lost) if len(lost) > 1 else None


def allowed(scores: Scores, stream: str) -> float:
    """Nats that the repair of the other stream may cost this one."""
    whole = deficit(scores, stream)
    return NATS if whole is None else WIDTH * whole.mean


def decision(scores: Scores, stream: str) -> str:
    """Whether the full method comes close to separate training on a stream, at no other's cost.

    The other stream pays if it may have lost more against `joint` than is allowed.
    """
    if not scores.testable(stream):
        return "not testable here"
    if why := scores.absent(stream, "joint", SEPARATE[stream], FULL):
        return f"cannot be said: {why}"
    part = repaired(scores, stream, FULL)
    if part is None:
        return "nothing to repair"
    if part.high < HALF:
        return "refuted"
    other = OTHER[stream]
    if why := scores.absent(other, "joint", SEPARATE[other], FULL):
        return f"cannot be said: {why}"
    lost = paid(scores, other, FULL)
    spared = lost is not None and lost.high <= allowed(scores, other)
    return "confirmed" if part.low >= HALF and spared else "undecided"


def same(scores: Scores) -> str:
    """H5: "better", "equivalent", or "" where neither is shown.

    Better is a claim of one of the seven contrasts, so it has to survive Holm's correction too.
    """
    values, whole = scores.of_contrast("H5"), deficit(scores, "text")
    if len(values) < 2:
        return ""
    if interval(values).high < 0 and "H5" in rejected(scores):
        return "better"
    band = interval(values, 0.9)
    inside = whole is not None and max(-band.low, band.high) <= WIDTH * whole.mean
    return "equivalent" if inside else ""


def masking(scores: Scores) -> str:
    """Needs a gain over tuned weights, and chosen entries that beat random ones."""
    if why := scores.absent("text", "joint_igm", "joint_igm_random", "joint_static"):
        return f"cannot be said: {why}"
    gain = scores.values("text", {"joint_igm": 1, "joint_static": -1})
    if interval(gain).high >= 0:
        return "not confirmed"
    said = {"better": "confirmed", "equivalent": "partition helps, selection does not"}
    return said.get(same(scores), "not confirmed")
