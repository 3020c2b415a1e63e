"""`mlp5`: the five dense layers that X-FM calls a linear probe, trained on frozen features.

Rates, batches, smoothing and epochs are the published ones of each set (`tasks/probe_sets.py`);
AdamW's decay of 0.01 falls on every tensor, warm-up takes a tenth of the epochs, then a cosine. The
epoch that is best on the validation data is kept. Unlike the published probe, which looks at a new
crop of each picture in each epoch, it reads features that were computed once, without augmentation
and without drop-path.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unified_fm.models.heads import DeepHead
from unified_fm.tasks._probes.linear import Measure

_DECAY = 0.01
_WARM_UP = 0.1  # of the epochs
_ASKED = 1024  # rows whose logits are computed at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the head is trained.

    Attributes:
        lr: highest learning rate.
        least: the one that it ends with.
        batch: rows of a step; fewer where the data have fewer.
        smoothing: share of the target that is spread over all classes.
        epochs: passes over the training data.
    """

    lr: float = 2e-5
    least: float = 0.0
    batch: int = 256
    smoothing: float = 0.1
    epochs: int = 100


class Trained(NamedTuple):
    """A trained head.

    Attributes:
        logits: features f[N D] -> f32[N classes].
        epoch: the kept one, from 1 on.
        scores: of each epoch on the validation data.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    epoch: int
    scores: Sequence[float]


def probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    measure: Measure,
    recipe: Recipe,
    *,
    seed: int = 0,
    told: Callable[[int, float], None] = lambda epoch, score: None,
) -> Trained:
    """Trains the head.

    Args:
        train: features f[N D] and labels i[N], below `classes`.
        validation: of which the measure is to be highest.
        classes: of the head.
        measure: of predicted and true labels.
        recipe: see the class.
        seed: of the first parameters and of the order of the rows.
        told: called with each epoch and its score.

    Raises:
        ValueError: a recipe without an epoch or a row.
    """
    if min(recipe.epochs, recipe.batch) < 1:
        raise ValueError(f"{recipe}: at least one epoch and one row of a batch are needed")
    head = DeepHead(classes)
    features = jnp.asarray(train[0], jnp.float32)
    labels = jnp.asarray(train[1], jnp.int32)
    size = min(recipe.batch, len(labels))
    steps = max(1, len(labels) // size)  # of an epoch
    optimizer = _optimizer(recipe, steps)
    params = head.init(jax.random.key(seed), features[:1])
    state = optimizer.init(params)
    step = _step(head, optimizer, recipe.smoothing)
    ask = jax.jit(head.apply)

    def logits_of(params: Any, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([*_logits(ask, params, rows)])

    best, scores = params, []
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(labels))
        for part in order[: steps * size].reshape(steps, size):
            params, state = step(params, state, features[part], labels[part])
        said = logits_of(params, validation[0]).argmax(axis=1)
        scores.append(measure(said, validation[1]))
        if scores[-1] > max(scores[:-1], default=-1.0):
            best = params
        told(epoch + 1, scores[-1])
    return Trained(lambda rows: logits_of(best, rows), int(np.argmax(scores)) + 1, scores)


def _optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    total = recipe.epochs * steps
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.lr, round(_WARM_UP * total), total, end_value=recipe.least
    )
    return optax.adamw(schedule, weight_decay=_DECAY)


def _step(head: DeepHead, optimizer: optax.GradientTransformation, smoothing: float) -> Callable:
    def loss(params, features, labels):
        targets = optax.smooth_labels(jax.nn.one_hot(labels, head.classes), smoothing)
        logits: Any = head.apply(params, features)
        return optax.softmax_cross_entropy(logits, targets).mean()

    @jax.jit
    def step(params, state, features, labels):
        slope = jax.grad(loss)(params, features, labels)
        change, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, change), state

    return step


def _logits(ask: Callable, params: Any, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of one size, the last one padded, so that one program does for all."""
    size = min(_ASKED, len(rows))
    for start in range(0, len(rows), size):
        block = np.asarray(rows[start : start + size], np.float32)
        padded = np.concatenate([block, np.zeros((size - len(block), rows.shape[1]), np.float32)])
        yield np.asarray(ask(params, padded))[: len(block)]
