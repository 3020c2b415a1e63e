"""Held-out cross-entropy after one temperature is fitted, so that confidence does not count.

A model that is too sure or not sure enough is worse than it need be, and one number repairs that.
The temperature of the examples of even number is the one that is best for those of odd number, and
the other way round, so no example chooses its own.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate

from unified_fm import queries
from unified_fm.evaluators import base

# Losses are smooth in the logarithm of the temperature: between these a cubic spline is exact to
# about 1e-5 nats, and all words of a batch are looked at 13 times and not at every trial.
TEMPERATURES = np.geomspace(0.5, 2.0, 13)
_TRIALS = np.geomspace(TEMPERATURES[0], TEMPERATURES[-1], 1401)  # a thousandth apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """Of words at the masked positions (pipeline "text"), or of image classes ("classify")."""

    option_defaults: ClassVar[Mapping[str, Any]] = {}  # the masking is what is measured

    pipeline: str = "text"

    metric_names = ("cross_entropy", "temperature")

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the cross-entropy, and the temperature by which it divides the logits."""
        rows = self.load().arrays
        words = "masked_ids" in rows
        fn, target = (_words, "masked_ids") if words else (_classes, "label")
        found = self.ask(apply, fn, params, rows, keep=(target,))
        used = found[target] >= 0  # bool[N], or of words bool[N K]
        numbers = np.nonzero(used)[0]
        loss, temperatures = fitted(found["loss"][used], numbers)
        yield base.mean("cross_entropy", loss, better="lower")
        yield base.Metric("temperature", float(np.mean(temperatures)), better="lower")


def fitted(losses: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """What is left of losses, each half of the examples at the temperature of the other.

    Args:
        losses: f[M T], at each of `TEMPERATURES`.
        examples: i[M], the number of each loss's example.

    Returns:
        The losses f[M], and the temperatures that even and odd examples got.
    """
    odd = examples % 2 == 1
    spline = scipy.interpolate.CubicSpline(np.log(TEMPERATURES), losses.astype(np.float64), axis=1)
    of_even, of_odd = (_best(losses[part].mean(axis=0)) for part in (odd, ~odd))
    kept = np.where(odd, spline(np.log(of_odd)), spline(np.log(of_even)))
    return kept, (of_even, of_odd)


def _best(losses: np.ndarray) -> float:
    """The temperature of the least of mean losses f[T]."""
    spline = scipy.interpolate.CubicSpline(np.log(TEMPERATURES), losses.astype(np.float64))
    return float(_TRIALS[spline(np.log(_TRIALS)).argmin()])


def _words(net, batch):
    """f[B K T] at the masked positions; anything where there is none."""
    return {"loss": _losses(queries.word_logits(net, batch), batch["masked_ids"])}


def _classes(net, batch):
    """f[B T]."""
    return {"loss": _losses(queries.image_classes(net, batch)["logits"], batch["label"])}


def _losses(logits: jax.Array, target: jax.Array) -> jax.Array:
    def at(temperature):
        logs = jax.nn.log_softmax(logits / temperature)
        return -jnp.take_along_axis(logs, jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]

    return jnp.moveaxis(jax.lax.map(at, jnp.asarray(TEMPERATURES, jnp.float32)), 0, -1)
