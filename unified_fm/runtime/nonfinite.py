"""Steps whose loss, gradient or update was not finite: named, written down, and counted.

The step itself has changed nothing (see `step.make_train_step`). Spikes of the gradient norm are
told and counted beside them. The check lags two steps behind, so that the loop never waits for the
step it has just started.
"""

import collections
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

_LAG = 2
_log = logging.getLogger(__name__)


class NotFinite(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


class Watch:
    """Looks at `ok` and `spikes` of every step.

    Attributes:
        in_a_row: refused steps, up to the last one that was looked at.
        refused: refused steps of this process.
        spikes: spikes of the gradient norm since step 0.
    """

    def __init__(
        self,
        workdir: Any,
        *,
        seed: int,
        max_in_a_row: int = 10,
        spikes: int = 0,
        policy: str = "clip",
    ):
        """Watches a run.

        Args:
            workdir: where the accounts are written.
            seed: of the run, for the accounts.
            max_in_a_row: refused steps after which the run stops.
            spikes: spikes seen before.
            policy: what the step does about a spike, see `spikes.Spikes`.

        Raises:
            ValueError: `max_in_a_row` is not positive.
        """
        if max_in_a_row < 1:
            raise ValueError(f"nonfinite.max_in_a_row must be at least 1, found {max_in_a_row}")
        self._workdir = epath.Path(workdir)
        self._seed = seed
        self._most = max_in_a_row
        self._policy = policy
        self._waiting: collections.deque = collections.deque()
        self.in_a_row = 0
        self.refused = 0
        self.spikes = spikes

    def see(self, step: int, metrics: Mapping[str, Any], records: Callable) -> None:
        """Takes note of a step, and checks the one two steps before.

        Args:
            step: steps made, this one included.
            metrics: of the step, on the devices.
            records: called for {stream: record numbers} if the step was refused.

        Raises:
            NotFinite: the last `max_in_a_row` steps were refused.
        """
        self._waiting.append((step, metrics, records))
        if len(self._waiting) > _LAG:
            self._check(*self._waiting.popleft())

    def finish(self) -> None:
        """Checks the steps that are still waiting. Raises as `see`."""
        while self._waiting:
            self._check(*self._waiting.popleft())

    def _check(self, step, metrics, records):
        ok, spikes = jax.device_get((metrics["ok"], metrics.get("spikes", self.spikes)))
        if ok:
            self.in_a_row = 0
            if spikes > self.spikes:
                self._see_spike(step, int(spikes), metrics)
            return
        self.in_a_row += 1
        self.refused += 1
        values = {name: float(x) for name, x in jax.device_get(dict(metrics)).items()}
        text = f"step {step} was not applied: {describe(values)}"
        path = self._workdir / f"nonfinite-{step:08}.json"
        try:
            if jax.process_index() == 0:
                path.write_text(json.dumps(self._account(step, values, records()), indent=1))
            _log.error("%s; written to %s", text, path)
        except OSError as error:  # a full disk is not the end of a run
            _log.error("%s; it could not be written to %s (%s)", text, path, error)
        if self.in_a_row >= self._most:
            raise NotFinite(
                f"{text}. That were {self.in_a_row} steps in a row, so the run stops; the "
                f"parameters are those before them. See {path}"
            )

    def _see_spike(self, step, spikes, metrics):
        self.spikes = spikes
        norm, sigma = jax.device_get((metrics["grad_norm"], metrics["spike_sigma"]))
        done = "the step was left out" if self._policy == "skip" else "the step was made as always"
        _log.warning(
            "step %d: the gradient norm %.3g is a spike, %.1f sigma above the mean; %s (spike %d)",
            step,
            norm,
            sigma,
            done,
            self.spikes,
        )

    def _account(self, step, values, records):
        key = jax.random.fold_in(jax.random.key(self._seed), step - 1)
        return {
            "step": step,
            "seed": self._seed,
            "rng": np.asarray(jax.random.key_data(key)).tolist(),
            "not_finite": [name for name, x in values.items() if not math.isfinite(x)],
            "grad_norms": {k: str(x) for k, x in values.items() if k.startswith("grad_norm")},
            "metrics": {k: x if math.isfinite(x) else str(x) for k, x in values.items()},
            "records": {name: [int(x) for x in numbers] for name, numbers in records.items()},
        }


def describe(values: Mapping[str, float]) -> str:
    """Says which loss of which stream was not finite, or that only what follows from it was."""
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    terms = [name.split("/") for name in bad if not name.startswith(("loss/", "grad_norm"))]
    losses = [
        f"loss {parts[1]!r} of stream {parts[0]!r} is {bad['/'.join(parts)]}"
        for parts in terms
        if len(parts) == 2
    ]
    if losses:
        return ", ".join(losses)
    groups = [name.split("/", 1)[1] for name in bad if name.startswith("grad_norm/")]
    if groups or "grad_norm" in bad:
        return f"every loss is finite, the gradient of group {', '.join(groups) or 'all'} is not"
    if "update_norm" in bad:
        return "every loss and gradient is finite, the update would not be"
    # The optimizer's state has no number of its own in the log; `param_norm` tells of most of it.
    return "every loss and gradient is finite, the state after the update would not be"
