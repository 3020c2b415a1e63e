"""Several seeds trained in one compiled step: states and batches have a leading axis S of seeds.

The step is the library's (`unified_fm.step`). On an accelerator it is `jax.vmap`ped over the seeds;
on a CPU the same function is mapped one seed after the other inside one compiled program, which
README.md shows to be faster there: a batched product of small matrices does not fill the caches
better, and the arrays of one seed fit in them.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from unified_fm import setup
from unified_fm import step as steps
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers

MAPPINGS = ("auto", "vmap", "map")
_LOG_LINES = 5  # of a training, where there is no terminal for a bar


def over_seeds(function: Callable, mapping: str = "auto") -> Callable:
    """Makes `function` of one seed a function of stacked seeds; all arguments have the axis S."""
    if mapping == "auto":
        mapping = "map" if jax.default_backend() == "cpu" else "vmap"
    if mapping == "vmap":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda each: function(*each), arguments)


@dataclasses.dataclass
class Learner:
    """What is learnt, and how, for all seeds at once.

    Attributes:
        settings: of a run of one seed; its streams' sources are not opened.
        seeds: numbers of the seeds: of initial parameters, dropout and random masks.
        mapping: of `over_seeds`.
    """

    settings: Settings
    seeds: tuple[int, ...]
    mapping: str = "auto"

    def __post_init__(self):
        self._step = None

    @property
    def model(self) -> Any:
        """The model, without parameters."""
        return chosen.model(self.settings.model)

    def prepared(self, batches: Mapping[str, Any]) -> setup.Prepared:
        """What the run of one seed is made of, for batches [S B ...]."""
        shapes = jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), dict(batches))
        one = jax.devices()[:1]  # all seeds lie on one device
        bytes_only = tokenizers.load("bytes")
        return setup.prepare(self.settings, shapes=shapes, tokenizer=bytes_only, devices=one)

    def init(self, batches: Mapping[str, Any]) -> Any:
        """New parameters f32[S ...] for batches [S B ...]."""
        ready = self.prepared(batches)
        init = over_seeds(lambda seed: ready.init_params({}, seed), self.mapping)
        return jax.jit(init)(jnp.array(self.seeds))

    def train(self, params: Any, batches: Iterable[Mapping[str, Any]], name: str) -> "Trained":
        """Trains from `params` f32[S ...] on all batches [S B ...].

        Raises:
            FloatingPointError: a step had a loss or gradient that was not finite.
        """
        batches = iter(batches)
        first = next(batches)
        ready = self.prepared(first)
        states = [
            self._seeded(ready, seed).init_state(jax.tree.map(lambda x, i=i: x[i], params))
            for i, seed in enumerate(self.seeds)
        ]
        state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        step, refresh = self._compiled(ready), ready.refresh
        seeds, history, total = jnp.array(self.seeds), [], self.settings.total_steps
        batches = itertools.chain([first], batches)
        for number, batch in enumerate(_watched(batches, total, name)):
            if refresh is not None and refresh.is_due(number):
                moved = jax.vmap(lambda s, n=number: refresh(s, n))(state.opt_state)
                state = state.replace(opt_state=moved)
            state, metrics = step(seeds, state, batch)
            history.append(metrics)
        return _trained(state.params, history, name)

    def _compiled(self, ready):
        """The step of all seeds, compiled once also if several trainings use it."""
        if self._step is None:

            def one(seed, state, batch):
                return ready.plain_step(seed)(state, {}, batch)

            self._step = jax.jit(over_seeds(one, self.mapping), donate_argnums=1)
        return self._step

    def _seeded(self, ready, seed):
        """The same for one seed: a merge that draws at random draws by it."""
        merge = self.settings.merge
        if merge.get("score") != "random":
            return ready
        settings = self.settings.replace(merge={**merge, "seed": seed})
        return dataclasses.replace(ready, settings=settings)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Parameters f32[S ...], and the mean over the last tenth of the steps of each logged number.

    Attributes:
        params: see above.
        logs: {name: one number for each seed}.
    """

    params: Any
    logs: Mapping[str, list[float]]


class Measure:
    """Means over held-out examples, of all seeds at once; compiled once for every kind of tree."""

    def __init__(self, model: Any, function: Callable, mapping: str = "auto"):
        """Takes `function(net, batch) -> {name: (mean, denominator)}`, as evaluators have it."""
        apply = steps.make_apply(model)

        def all_seeds(params, batch):
            return over_seeds(lambda p: apply(function, p, batch), mapping)(params)

        self._evaluate = jax.jit(all_seeds)

    def __call__(self, params: Any, rows: Mapping[str, np.ndarray], size: int = 250):
        """{name: f64[S]} of parameters f32[S ...]; all seeds are shown the same examples."""
        sums: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        for batch in _batches(rows, size):
            for name, (value, weight) in jax.device_get(self._evaluate(params, batch)).items():
                weight = weight.astype(np.float64)
                sums[name] = sums.get(name, 0) + value * weight
                weights[name] = weights.get(name, 0) + weight
        return {name: sums[name] / weights[name] for name in sums}


def _batches(rows, size) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one size: the last is filled up with examples of weight 0, not compiled anew."""
    total = len(next(iter(rows.values())))
    for start in range(0, total, size):
        places = np.arange(start, start + size)
        batch = {key: array[np.minimum(places, total - 1)] for key, array in rows.items()}
        yield {**batch, "weight": (places < total).astype(np.float32)}


def _watched(batches, total, name):
    """The batches, with a bar; without a terminal a few lines in the log instead."""
    started, every = time.monotonic(), max(1, total // _LOG_LINES)
    for number, batch in enumerate(tqdm.tqdm(batches, name, total, disable=None, mininterval=1)):
        if number and number % every == 0:
            rate = (time.monotonic() - started) / number
            left = rate * (total - number)
            logging.info("%s: step %d of %d, %.0f s left", name, number, total, left)
        yield batch


def _trained(params, history, name) -> Trained:
    history = jax.device_get(history)
    refused = int(sum((step["ok"] == 0).sum() for step in history))
    if refused:
        raise FloatingPointError(f"{name}: {refused} steps had a loss or gradient not finite")
    last = history[-max(1, len(history) // 10) :]
    logs = {key: np.mean([step[key] for step in last], axis=0).tolist() for key in last[0]}
    return Trained(params=params, logs=logs)
