"""What the pages of experiments say alike: how numbers were made, and means with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.statistics import interval


def made(found: Mapping[str, Any], command: str) -> list[str]:
    """Lines about how a results.json was made, told by its entries.

    Args:
        found: what it holds.
        command: that made it; "" is not said.
    """
    entries = [e for arm in found["arms"].values() for e in arm["seeds"].values()]
    seeds = sorted({int(seed) for arm in found["arms"].values() for seed in arm["seeds"]})
    teachers = sorted({name.split()[-1] for name in found.get("teachers", {})})
    minutes = sum(entry.get("seconds", 0.0) for entry in entries) / 60

    def said(key):
        return ", ".join(sorted({str(e[key]) for e in entries if key in e})) or "unknown"

    return [
        *([f"- Command: `{command}`"] if command else []),
        f"- Commit: {said('commit')}",
        f"- {found['settings']['total_steps']} steps; seeds {', '.join(map(str, seeds))}; those of "
        f"the teachers: {', '.join(teachers) or 'none'}",
        f"- Machine: {said('device')}; jax {said('jax')}",
        f"- Training and evaluation of the students: {minutes:.0f} minutes, summed over runs",
    ]


def mean(values: Sequence[float], digits: int) -> str:
    """The mean of some seeds and half of its interval; "" of none."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    found = interval(values)
    return f"{found.mean:.{digits}f} ± {found.high - found.mean:.{digits}f}"
