"""The faults of `tools/chaos.py`: which there are, how they are drawn, what must come of them."""

import dataclasses
import math
import os
import pathlib
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Kind -> the exit code that it may bring.
CODES = {
    "SIGKILL": 137,
    "SIGTERM": 143,
    "SIGTERM twice": 143,
    "SIGINT": 130,
    "disk full a while": 1,
    "disk full to the end": 1,
}
# Their shares: after a disk that is full for a while a run mostly goes on to its end, which takes
# longer than to start again.
KINDS = {
    "SIGKILL": 4,
    "SIGTERM": 3,
    "SIGTERM twice": 2,
    "SIGINT": 3,
    "disk full a while": 1,
    "disk full to the end": 2,
}
# Phase -> its share of the faults.
SHARES = {
    "start": 2,
    "restore": 2,
    "compile": 1,
    "step": 2,
    "save": 4,
    "evaluation": 2,
    "report": 1,
    "end": 1,
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One planned fault. The numbers in [0, 1) are drawn, so they depend on the seed alone."""

    kind: str
    phase: str
    occurrence: float  # which of the times that the phase is entered
    moment: float  # of the usual length of the phase
    length: float  # seconds for which a disk stays full, or until the second signal

    @classmethod
    def drawn(cls, seed: str) -> "Fault":
        """The fault of a seed."""
        rng = random.Random(seed)
        return cls(
            kind=rng.choices(list(KINDS), list(KINDS.values()))[0],
            phase=rng.choices(list(SHARES), list(SHARES.values()))[0],
            occurrence=rng.random(),
            moment=rng.random(),
            length=rng.random(),
        )


@dataclasses.dataclass
class Outcome:
    """What came of one fault."""

    fault: Fault
    run: int
    attempt: int
    phase: str  # where it struck
    code: int  # of the exit, as a shell gives it
    seconds: float  # from the fault to the exit
    steps: int  # that had been made
    again: int = 0  # of them, those that the next attempt made again

    def __str__(self) -> str:
        return (
            f"run {self.run} attempt {self.attempt}: {self.fault.kind} in phase {self.phase} after "
            f"{self.steps} steps: exit {self.code} after {self.seconds:.2f} s"
        )


def wrong_exit(kind: str | None, code: int, complete: bool) -> str | None:
    """Says what is wrong with an exit.

    Args:
        kind: of the fault, None if nothing disturbed it.
        code: of the exit.
        complete: whether the last step is saved.
    """
    if code == 0:
        return None if complete else "exit 0, but the last step is not saved"
    allowed = [0] if kind is None else [CODES[kind]]
    return None if code in allowed else f"exit {code}, where {allowed[0]} was to be"


def lost(outcome: Outcome, every: int) -> str | None:
    """Says whether steps were lost that should not be: a signal saves them, a kill costs at most
    those since the last save but one (`every` steps lie between two), for one may be at work."""
    signal = outcome.fault.kind in ("SIGTERM", "SIGINT")
    most = 0 if signal else 2 * every if outcome.fault.kind.startswith("SIG") else math.inf
    return f"{outcome.again} steps were lost (at most {most})" if outcome.again > most else None


def table(outcomes: Sequence[Outcome]) -> str:
    """One line for each kind of fault and phase, and their sums."""
    rows = [["fault", "phase", "times", "exit codes", "steps again", "s to exit", "at most"]]
    for kind in CODES:
        of_kind = [o for o in outcomes if o.fault.kind == kind]
        for phase in SHARES:
            rows += _row(kind, phase, [o for o in of_kind if o.phase == phase])
        rows += _row(kind, "all", of_kind)
    rows += _row("all", "all", outcomes)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place in (0, 1, 3) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(kind: str, phase: str, outcomes: Sequence[Outcome]) -> list[list[str]]:
    if not outcomes:
        return []
    codes = sorted({o.code for o in outcomes})
    counted = ", ".join(f"{c} x {sum(o.code == c for o in outcomes)}" for c in codes)
    again, seconds = [o.again for o in outcomes], [o.seconds for o in outcomes]
    return [
        [
            kind,
            phase,
            str(len(outcomes)),
            counted,
            f"{statistics.median(again):.0f} ({max(again)})",
            f"{statistics.median(seconds):.2f}",
            f"{max(seconds):.2f}",
        ]
    ]


def occurrences(config: Mapping[str, Any], saved: int) -> dict[str, int]:
    """How often an attempt that goes on from step `saved` will enter the phases."""
    left = max(1, config.total_steps - saved)
    evaluations = left // every if (every := config.evaluate.every) else 0
    return {
        "step": left,
        "save": max(1, left // config.checkpoint.every),
        "evaluation": max(1, evaluations),
    }


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """The steps that lie in the workdir under their own names."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())
