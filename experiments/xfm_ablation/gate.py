"""How many seeds are needed: from `full` and `no_stop` on seeds that are used for nothing else."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats

from experiments.xfm_ablation.endpoints import VISION, WORDS, Endpoints

SEEDS = (100, 101, 102)
ARMS = ("full", "no_stop")
EFFECTS = {WORDS: 0.02, VISION: 1.0}  # nats, points
LEAST, MOST = 6, 16
POWER, LEVEL = 0.8, 0.05
CONTRASTS = 5  # primary ones; Holm's first step is at LEVEL / CONTRASTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """What the gate decided.

    Attributes:
        n: counted seeds.
        sd: {endpoint: standard deviation of full - no_stop over the gate's seeds}.
        power: {endpoint: that of n seeds at LEVEL to see its effect}.
        detectable: {endpoint: the effect that n seeds see with POWER at Holm's first step}.
    """

    n: int
    sd: Mapping[str, float]
    power: Mapping[str, float]
    detectable: Mapping[str, float]


def decide(found: Mapping[str, Any]) -> Gate:
    """The gate of what its results.json holds.

    Raises:
        ValueError: an arm is void, or has not both endpoints of two seeds or more.
    """
    endpoints = Endpoints(found)
    sd = {}
    for name in EFFECTS:
        differences = endpoints.values(name, {"full": 1, "no_stop": -1})
        if len(differences) < 2:
            raise ValueError(
                f"the gate needs {name} of {' and '.join(ARMS)} for 2 seeds or more, found "
                f"{len(differences)}; void arms: {', '.join(endpoints.void) or 'none'}"
            )
        sd[name] = float(np.std(differences, ddof=1))
    n = max(seeds_needed(sd[name], effect) for name, effect in EFFECTS.items())
    return Gate(
        n=n,
        sd=sd,
        power={name: power(sd[name], effect, n) for name, effect in EFFECTS.items()},
        detectable={name: detectable(sd[name], n, LEVEL / CONTRASTS) for name in EFFECTS},
    )


def seeds_needed(sd: float, effect: float) -> int:
    """The fewest seeds, LEAST to MOST, that see an effect with POWER at LEVEL; MOST if none do."""
    enough = (n for n in range(LEAST, MOST) if power(sd, effect, n) >= POWER)
    return next(enough, MOST)


def power(sd: float, effect: float, n: int, level: float = LEVEL) -> float:
    """Of the two-sided paired t test to reject no difference, by the noncentral t distribution.

    Args:
        sd: of the paired differences.
        effect: their true mean, in the same unit.
        n: pairs, two or more.
        level: of the test.
    """
    if sd == 0:
        return 1.0
    critical = scipy.stats.t.ppf(1 - level / 2, n - 1)
    shift = abs(effect) / sd * math.sqrt(n)
    tails = scipy.stats.nct.sf(critical, n - 1, shift), scipy.stats.nct.cdf(-critical, n - 1, shift)
    return float(np.nansum(tails))  # far from 0 the lower tail underflows to NaN


def detectable(sd: float, n: int, level: float) -> float:
    """The effect, in the unit of `sd`, that n pairs see with POWER."""
    if sd == 0:
        return 0.0

    def missing(effect: float) -> float:
        return power(1.0, effect, n, level) - POWER

    return sd * float(scipy.optimize.brentq(missing, 1e-6, 10.0))


def table(gate: Gate) -> Sequence[str]:
    """Lines of Markdown."""
    units = {WORDS: "nats", VISION: "points"}
    rows = [
        f"n = {gate.n}, by `full` and `no_stop` on seeds {', '.join(map(str, SEEDS))}.",
        "",
        "| | SD of full - no_stop | effect | power at .05 | seen with power .8 at .01 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, effect in EFFECTS.items():
        cells = [f"{gate.sd[name]:.4f}", f"{effect:g} {units[name]}", f"{gate.power[name]:.2f}"]
        rows.append(f"| {name} | {' | '.join(cells)} | {gate.detectable[name]:.4f} |")
    return rows
