"""Image-text matching with hard negatives (ALBEF, X-FM section 2.3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import optax

from unified_fm import choices
from unified_fm.objectives import base
from unified_fm.objectives.base import (
    SAME,
    Output,
    row_weights,
    same_pair,
    weighted_mean,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Tells each matching pair from its text with a wrong image and its image with a wrong text.

    Wrong partners are drawn by similarity, without gradient, from the row's group of the global
    batch; the draw is the same on any mesh. A batch with `negatives_image` and `negatives_text`
    i32[B] uses these rows instead: the image for text b, the text for image b. Rows of weight 0 are
    never drawn; a row without any possible partner (a batch of one) has no negative in the loss.

    Attributes:
        stop_text_gradient: fusion losses do not move the language encoder (X-FM section 2.6).
        group_size: rows of the global batch per group; None = one group. The batch size per device
            draws as the published program does.
        exclude: what is never drawn besides the row itself: "row" = nothing, "ids" = rows of the
            same `example_id` (retrieval fine-tuning), "texts" = rows with the same text.
    """

    # Negatives are drawn among the rows at hand: a part of a batch offers fewer, and easier ones.
    accumulates: ClassVar[bool] = False

    stop_text_gradient: bool = True
    group_size: int | None = None
    exclude: str = "row"

    def __post_init__(self) -> None:
        choices.check("itm.exclude", self.exclude, SAME)

    @property
    def reads(self) -> Mapping[str, bool]:
        return {"text": not self.stop_text_gradient, "pooled": False, "image_memory": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        text = views.text  # f[B L D]
        if self.stop_text_gradient:
            text = jax.lax.stop_gradient(text)
        rows = len(text)
        weights = row_weights(batch, rows)
        other_image, other_text, possible = self._negatives(net, views, batch, weights)

        own = jnp.arange(rows)
        which = jnp.concatenate([own, own, other_text])
        fused = net.fuse(  # f[3B L D]; a negative brings its own text mask, slot 0 and patch mask
            text=text[which],
            text_mask=batch["text_mask"][which],
            memory=views.image_memory,
            rows=jnp.concatenate([own, other_image, own]),
        )
        logits = net.itm_head(fused[:, 0])  # f32[3B 2]; class 1 = match
        chex.assert_shape(logits, (3 * rows, 2))
        labels = jnp.repeat(jnp.array([1, 0, 0]), rows, total_repeat_length=3 * rows)

        negative = weights * possible
        weights = jnp.concatenate([weights, negative, negative])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss, denominator = weighted_mean(loss, weights)
        return Output(
            loss=loss,
            denominator=denominator,
            metrics=_metrics(logits, labels, weights),
        )

    def _negatives(self, net, views, batch, weights):
        """(image row for each text, text row for each image, whether there is one), each [B]."""
        rows = len(weights)
        if "negatives_image" in batch:
            fixed = batch["negatives_image"], batch["negatives_text"]
            return *fixed, jnp.ones(rows, bool)
        size = self.group_size or rows
        if rows % size:
            raise ValueError(f"itm.group_size {size} does not divide the batch of {rows} rows")
        group = jnp.arange(rows) // size
        real = weights > 0
        seen = (group[:, None] == group) & real  # bool[B B], columns over which softmax goes
        allowed = seen & ~same_pair(batch, rows, self.exclude)

        similarity = jax.lax.stop_gradient(net.similarity(views))  # f32[text image]
        image_rng, text_rng = jax.random.split(net.make_rng("objective"))
        other_image = draw(image_rng, similarity, seen, allowed)
        other_text = draw(text_rng, similarity.T, seen, allowed)
        return other_image, other_text, allowed.any(axis=1)


def draw(rng, similarity, seen, allowed):
    """One column i32[B] per row, with chances softmax(similarity) + 1e-5 as published.

    Args:
        rng: a key.
        similarity: f32[B B].
        seen: bool[B B], columns over which the softmax is taken.
        allowed: bool[B B], columns that may be drawn; a row without any gets an arbitrary one.
    """
    chances = jax.nn.softmax(jnp.where(seen, similarity, jnp.finfo(jnp.float32).min)) + 1e-5
    # NaN similarities, or nothing to choose from, must not make the draw NaN: uniform instead.
    chances = jnp.where(jnp.isfinite(chances), chances, 1e-5)
    anything = ~allowed.any(axis=1, keepdims=True)
    return jax.random.categorical(rng, jnp.log(jnp.where(allowed | anything, chances, 0.0)))


def _metrics(logits, labels, weights):
    """Accuracy of all, and how often a match scores above its own two negatives.

    Negatives are two in three, so "never a match" already has an accuracy of 2/3.
    """
    accuracy, _ = weighted_mean(logits.argmax(-1) == labels, weights)
    score = (logits[:, 1] - logits[:, 0]).reshape(3, -1)
    _, with_image, with_text = weights.reshape(3, -1)
    wins = jnp.concatenate([score[0] > score[1], score[0] > score[2]])
    ranked, _ = weighted_mean(wins, jnp.concatenate([with_image, with_text]))
    return {"accuracy": accuracy, "ranking": ranked}
