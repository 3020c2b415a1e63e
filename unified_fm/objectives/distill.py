"""Distillation: the student's logits or states towards those of a frozen teacher.

The teacher's arrays lie in `batch["teacher"][NAME]` (`models.base`); students read them like
labels. "kl" is Hinton's form, with T^2 so that the gradient of small logits does not depend on T:

    KD(u, z) = T^2 sum_c p_c (log p_c - log q_c),  p = softmax(u / T),  q = softmax(z / T)

It stands beside the ordinary loss: L = CE + KD, with the weights in the config
(`mlm=1.0, distill=dict(weight=1.0, ...)`), which may change over the run. UFM (arXiv 2112.07074)
says only that teachers supervise in addition to the losses; which form, which weights and
temperatures is our choice.

Of a teacher read from a cache only the best k logits may be known; then the sum is over k + 1
outcomes, the k and all others as one lump (`lumps`), of the teacher as of the student.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unified_fm import choices
from unified_fm.objectives import base, lumps
from unified_fm.objectives.base import (
    IGNORED,
    Lesson,
    Output,
    row_weights,
    take_positions,
    weighted_mean,
)

LOGITS = ("kl", "sigmoid_kl", "mse", "hard")
HIDDEN = ("hidden_mse", "hidden_cos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Mean divergence from the teacher, over images or over token positions.

    Reads `batch["teacher"]`, and for text `text_mask`, `masked_positions`, `masked_ids`; `weight`.
    Metrics: `agreement`, the share where student and teacher choose the same class or word.

    Attributes:
        teacher: name of the teacher in the config.
        of: "image" (class logits, or states of all slots) or "mlm" (word logits, or states).
        kind: "kl"; "sigmoid_kl", the divergence of one yes-no question for each class, summed, for
            sigmoid heads; "mse", the mean over classes of squared differences of logits; "hard",
            cross-entropy towards the teacher's choice; "hidden_mse" and "hidden_cos" (1 - cosine)
            of the last states, whose width must be the teacher's.
        temperature: T of "kl" and "sigmoid_kl"; that of the cache where a teacher was truncated.
        positions: for "mlm": "masked", or "all" real tokens of the masked text.
    """

    teacher: str
    of: str
    kind: str = "kl"
    temperature: float = 1.0
    positions: str = "masked"

    def __post_init__(self) -> None:
        choices.check("distill.of", self.of, ("image", "mlm"))
        choices.check("distill.kind", self.kind, LOGITS + HIDDEN)
        choices.check("distill.positions", self.positions, ("masked", "all"))
        if self.temperature <= 0:
            raise ValueError(f"distill.temperature is {self.temperature}; it must be above 0")

    @property
    def reads(self) -> Mapping[str, bool]:
        return {"image" if self.of == "image" else "text_masked": True}

    @property
    def lessons(self) -> Mapping[str, Lesson]:
        return {self.teacher: Lesson(self._key(), self.kind, self.temperature)}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        target = self._target(batch)
        pair = self._images if self.of == "image" else self._texts
        mine, theirs, weights = pair(net, views, batch, target)
        mine, theirs = mine.astype(jnp.float32), jax.lax.stop_gradient(theirs)
        if isinstance(theirs, lumps.Truncated):
            values, choice = self._of_truncated(theirs, mine), theirs.ids[..., 0]
        else:
            theirs = theirs.astype(jnp.float32)
            values, choice = self._of_all(theirs, mine), theirs.argmax(-1)

        loss, denominator = weighted_mean(values, weights)
        if self.kind in HIDDEN:
            metrics = {"cosine": weighted_mean(_cosine(theirs, mine), weights)[0]}
        else:
            metrics = {"agreement": weighted_mean(choice == mine.argmax(-1), weights)[0]}
        return Output(loss=loss, denominator=denominator, metrics=metrics)

    def _of_all(self, theirs, mine):
        """The divergence f32[...] of arrays f32[... C], or of states."""
        if self.kind in _DIVERGENCES:
            t = self.temperature
            return t**2 * _DIVERGENCES[self.kind](theirs / t, mine / t)
        return _OTHERS[self.kind](theirs, mine)

    def _of_truncated(self, theirs, mine):
        """The same where the teacher's best k are known, and its others as a lump."""
        t = self.temperature
        if self.kind == "hard":
            return optax.softmax_cross_entropy_with_integer_labels(mine, theirs.ids[..., 0])
        wanted = lumps.name(self.kind, t)
        if wanted not in theirs.rests:
            raise ValueError(
                f"distill: of the teacher {self.teacher!r} the best {theirs.logits.shape[-1]} of "
                f"{theirs.classes} logits are known, and the rest for "
                f"{', '.join(theirs.rests) or 'nothing'}, not for {wanted}"
            )
        best = jnp.take_along_axis(mine, theirs.ids, axis=-1)
        my_rest = lumps.rest(self.kind, mine, theirs.ids, t)
        return t**2 * _DIVERGENCES[self.kind](
            lumps.outcomes(theirs.logits, theirs.rests[wanted], t),
            lumps.outcomes(best, my_rest, t),
        )

    def _images(self, net, views, batch, target):
        """(student f[B C], teacher, weights f[B]), or of states f[B 1+N D] with f[B 1+N]."""
        weights = row_weights(batch, len(views.image))
        if self.kind in HIDDEN:
            mine = views.image
            weights = jnp.broadcast_to(weights[:, None], mine.shape[:2])
        else:
            mine = net.image_head(views.image[:, 0])
        self._check(_shape(target), mine.shape)
        return mine, target, weights

    def _texts(self, net, views, batch, target):
        """The same for texts: f[B K V] at the masked, f[B L V] at all positions, or states."""
        mine = views.text_masked
        rows = row_weights(batch, len(mine))[:, None]
        if self.positions == "all":
            weights = rows * batch["text_mask"]
        else:
            weights = rows * (batch["masked_ids"] != IGNORED)
            mine = take_positions(mine, batch["masked_positions"])
        if self.kind not in HIDDEN:
            mine = net.mlm_head(mine)
        elif self.positions == "masked":
            target = take_positions(target, batch["masked_positions"])
        self._check(_shape(target), mine.shape)
        return mine, target, weights

    def _key(self) -> str:
        """The name of the teacher's array that this objective compares with."""
        if self.kind in HIDDEN:
            return "image_hidden" if self.of == "image" else "text_hidden"
        if self.of == "image":
            return "image"
        return "mlm" if self.positions == "masked" else "mlm_all"

    def _target(self, batch):
        """That array."""
        asks = f"kind={self.kind!r} of={self.of!r} positions={self.positions!r}"
        return base.taught(batch, self.teacher, self._key(), who="distill", asks=asks)

    def _check(self, theirs, mine):
        """Refuses a teacher of another vocabulary, class count, width or number of tokens."""
        last = "classes" if self.of == "image" else "words"
        last = base.WIDTH if self.kind in HIDDEN else last
        asks = f"kind={self.kind!r}, of={self.of!r}"
        base.check_alike(theirs, mine, last, self.teacher, who="distill", asks=asks)


def _shape(target) -> tuple[int, ...]:
    """Of the teacher's whole array, if only its best k are known too."""
    if isinstance(target, lumps.Truncated):
        return (*target.ids.shape[:-1], target.classes)
    return target.shape


def _kl(theirs, mine):
    """f32[...] of logits at their temperature; -inf in `theirs` is an outcome that never comes."""
    p = jax.nn.softmax(theirs)
    gap = jax.nn.log_softmax(theirs) - jax.nn.log_softmax(mine)
    return jnp.where(p > 0, p * gap, 0.0).sum(-1)


def _sigmoid_kl(theirs, mine):
    p = jax.nn.sigmoid(theirs)
    cross = optax.sigmoid_binary_cross_entropy(mine, p)
    entropy = optax.sigmoid_binary_cross_entropy(theirs, p)
    return (cross - entropy).sum(-1)


def _squares(theirs, mine):
    return jnp.square(theirs - mine).mean(-1)


def _cosine(theirs, mine):
    """f32[...]; 0 for a state of zeros."""
    norms = jnp.square(theirs).sum(-1) * jnp.square(mine).sum(-1)
    return (theirs * mine).sum(-1) * jax.lax.rsqrt(jnp.maximum(norms, 1e-24))


_DIVERGENCES = {"kl": _kl, "sigmoid_kl": _sigmoid_kl}  # of logits divided by the temperature
_OTHERS = {
    "mse": _squares,
    "hard": lambda theirs, mine: optax.softmax_cross_entropy_with_integer_labels(
        mine, theirs.argmax(-1)
    ),
    "hidden_mse": _squares,
    "hidden_cos": lambda theirs, mine: 1 - _cosine(theirs, mine),
}
