"""A trace of some steps, for xprof: `--profile=10-13` writes it into WORKDIR/profile."""

import logging
import re
from typing import Any

import jax

_log = logging.getLogger(__name__)


class Profile:
    """Traces the steps from `first` to `last` on every process, and nothing else.

    The first steps of a run hold compilation and warm-up, so a few later ones say more. What is
    left of them when a run ends early is kept. A trace that fails is said, and costs no step.
    """

    def __init__(self, folder: Any, steps: tuple[int, int] | None):
        self._folder = str(folder)
        self._steps = steps
        self._on = False

    def before(self, step: int) -> None:
        """Step number `step` (from 1) is made next."""
        if self._steps is not None and not self._on and self._steps[0] <= step <= self._steps[1]:
            try:
                jax.profiler.start_trace(self._folder)
                self._on = True
            except Exception as error:
                self._steps = None
                _log.error("the steps are not traced, the run goes on: %s", error)

    def after(self, step: int, metrics: Any) -> None:
        """Step number `step` was given to the devices; `metrics` are its results."""
        if self._on and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(metrics)  # else the trace ends before the step does
            self.close()

    def close(self) -> None:
        """Writes what was traced."""
        if self._on:
            self._on, self._steps = False, None
            try:
                jax.profiler.stop_trace()
            except Exception as error:
                _log.error("the trace could not be written, the run goes on: %s", error)
                return
            _log.info("the steps are traced; look at them with: xprof --logdir=%s", self._folder)


def steps(text: str) -> tuple[int, int]:
    """(first, last) of "10-13", or of "10".

    Raises:
        ValueError: it is neither, or the last is before the first.
    """
    found = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ValueError(
            f"--profile={text}: a range of steps is meant, as in --profile=10-13, or one step; "
            "steps are counted from 1"
        )
    return int(found[1]), int(found[2] or found[1])
