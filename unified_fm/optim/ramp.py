"""The ramp of a mask: at which steps it changes, and how many entries it has given away by then.

The cubic is the sparsity schedule of Zhu & Gupta 2017 (arXiv 1710.01878) that starts from zero;
"geometric" gives away an equal share of the rest each time, as sparse sharing does (1911.05034).
"""

import dataclasses
import math
import numbers

from unified_fm import choices

SCHEDULES = ("cubic", "linear", "one_shot", "geometric")

_CHANGES = 10  # after the first one, when dt is not given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp:
    """A share of entries that grows from 0 to `final_ratio` between the steps `t0` and `t1`.

    Attributes:
        schedule: "cubic", "linear", "one_shot" (everything at t0) or "geometric".
        final_ratio: the share at the end, in [0, 1].
        t0: the first step at which the mask may change.
        t1: the last one.
        dt: steps between changes.
    """

    schedule: str
    final_ratio: float
    t0: int
    t1: int
    dt: int

    def __post_init__(self):
        choices.check("schedule", self.schedule, SCHEDULES)
        if not 0 <= self.final_ratio <= 1:
            raise ValueError(f"final_ratio must be in [0, 1], found {self.final_ratio!r}")
        if not 0 <= self.t0 <= self.t1 or self.dt < 1:
            raise ValueError(
                f"a ramp needs 0 <= t0 <= t1 and dt >= 1, "
                f"found t0={self.t0}, t1={self.t1}, dt={self.dt}"
            )
        if (self.t1 - self.t0) % self.dt:
            last = self.t1 - (self.t1 - self.t0) % self.dt
            raise ValueError(
                f"the ramp from t0={self.t0} to t1={self.t1} is no whole number of dt={self.dt}: "
                f"its last change would be at step {last} with a ratio of {self.ratio(last):.4g} "
                f"instead of {self.final_ratio:.4g}"
            )
        if self.t0 == 0 and self.ratio(0) > 0:
            raise ValueError(
                f"the ramp gives away a share of {self.ratio(0):.4g} at step 0, "
                "before any gradient was seen; start it later (t0 >= 1)"
            )

    def steps(self) -> range:
        """The steps before which the mask changes."""
        return range(self.t0, self.t1 + 1, self.dt)

    def ratio(self, step: int) -> float:
        """The share of entries given away from `step` on."""
        if step < self.t0:
            return 0.0
        length = self.t1 - self.t0
        x = min(1.0, (step - self.t0) / length) if length else 1.0
        if self.schedule == "cubic":
            return self.final_ratio * (1 - (1 - x) ** 3)
        if self.schedule == "linear":
            return self.final_ratio * x
        if self.schedule == "geometric":
            return self.final_ratio if x == 1 else 1 - (1 - self.final_ratio) ** x
        return self.final_ratio

    def released(self, step: int, size: int) -> int:
        """How many of `size` entries are given away from `step` on.

        Computed on the host, in float64: float32 could not count the entries of a large tensor.
        """
        return math.floor(self.ratio(step) * size)


def make_ramp(
    *,
    schedule: str,
    final_ratio: float,
    t0: int | float,
    t1: int | float,
    dt: int | float | None,
    total_steps: int | None,
) -> Ramp:
    """Makes a ramp from steps (whole numbers) or fractions of the run (floats in [0, 1]).

    Fractions are rounded to whole steps, and then t1 down to a whole number of changes. A `dt` of
    None is a tenth of the ramp; `total_steps`, the length of the run, is needed for fractions.

    Raises:
        ValueError: the ramp ends after the run, or is no ramp; with both sides' values.
    """
    start = end = _steps(t0, "t0", total_steps)
    every = 1
    if schedule != "one_shot":
        end = _steps(t1, "t1", total_steps)
        if isinstance(t0, float) and isinstance(t1, float) and t0 < t1:
            end = max(end, start + 1)  # a very short run rounds both to the same step
        every = max(1, (end - start) // _CHANGES) if dt is None else _steps(dt, "dt", total_steps)
    if total_steps is not None and end > total_steps:
        raise ValueError(
            f"the mask's ramp ends at step {end}, after the run: total_steps={total_steps}"
        )
    if not all(isinstance(value, numbers.Integral) for value in (t0, t1, dt)):
        every = max(1, every)
        end -= (end - start) % every
    return Ramp(schedule=schedule, final_ratio=final_ratio, t0=start, t1=end, dt=every)


def _steps(value: int | float, name: str, total_steps: int | None) -> int:
    if isinstance(value, numbers.Integral):
        return int(value)
    if not 0 <= value <= 1:
        raise ValueError(
            f"{name}={value!r}: a float is a fraction of the run, in [0, 1]; steps are integers"
        )
    if total_steps is None:
        raise ValueError(
            f"{name}={value!r} is a fraction of the run, and total_steps was not given"
        )
    return round(value * total_steps)
