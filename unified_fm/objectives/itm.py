"""Image-text matching with hard negatives (ALBEF, X-FM section 2.3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import optax

from unified_fm import choices, groups
from unified_fm.objectives import base
from unified_fm.objectives.base import (
    SAME,
    Fuse,
    Output,
    Result,
    row_weights,
    same_pair,
    weighted_mean,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Tells each matching pair from its text with a wrong image and its image with a wrong text.

    Wrong partners are drawn by similarity, without gradient, from the row's group (`groups` of the
    stream); the draw is the same on any mesh. As many groups as there were devices draw as the
    published program does. A batch with `negatives_image` and `negatives_text` i32[B] uses these
    rows instead, by their place in the group: the image for text b, the text for image b. Rows of
    weight 0 are never drawn; a row without any possible partner (a group of one) has no negative in
    the loss.

    Attributes:
        stop_text_gradient: fusion losses do not move the language encoder (X-FM section 2.6).
        exclude: what is never drawn besides the row itself: "row" = nothing, "ids" = rows of the
            same `example_id` (retrieval fine-tuning), "texts" = rows with the same text.
    """

    # Negatives are drawn among the rows at hand: a part of a batch offers fewer, and easier ones.
    accumulates: ClassVar[bool] = False
    refers: ClassVar[bool] = True

    stop_text_gradient: bool = True
    exclude: str = "row"

    def __post_init__(self) -> None:
        choices.check("itm.exclude", self.exclude, SAME)

    @property
    def same(self) -> str:
        return self.exclude

    @property
    def reads(self) -> Mapping[str, bool]:
        return {"text": not self.stop_text_gradient, "pooled": False, "image_memory": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        text = views.text  # f[B L D]
        if self.stop_text_gradient:
            text = jax.lax.stop_gradient(text)
        rows, memory = len(text), views.image_memory
        weights = row_weights(batch, rows)
        other_image, other_text, possible = self._negatives(net, views, batch, weights)

        mask = batch["text_mask"]
        wrong, wrong_mask = (groups.take(x, other_text, views.groups) for x in (text, mask))
        fused = yield (  # a negative brings its own text mask, or its slot 0 and patch mask
            Fuse(text=text, text_mask=mask, memory=memory),
            Fuse(text=text, text_mask=mask, memory=memory, rows=other_image),
            Fuse(text=wrong, text_mask=wrong_mask, memory=memory),
        )
        # Side by side, so that a row stays on its device.
        logits = net.itm_head(jnp.stack([states[:, 0] for states in fused], axis=1))  # f32[B 3 2]
        chex.assert_shape(logits, (rows, 3, 2))
        labels = jnp.broadcast_to(jnp.array([1, 0, 0]), (rows, 3))  # class 1 = match

        negative = weights * possible
        weights = jnp.stack([weights, negative, negative], axis=1)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss, denominator = weighted_mean(loss, weights)
        return Output(
            loss=loss,
            denominator=denominator,
            metrics=_metrics(logits, labels, weights),
        )

    def _negatives(self, net, views, batch, weights):
        """(image row for each text, text row for each image, whether there is one), each [B].

        Rows are given by their place in the group, of G with S = B / G rows each.
        """
        rows, count = len(weights), views.groups
        if "negatives_image" in batch:
            fixed = batch["negatives_image"], batch["negatives_text"]
            return *fixed, jnp.ones(rows, bool)
        size = rows // count
        # bool[G S S], columns over which the softmax goes
        seen = jnp.broadcast_to((weights > 0).reshape(count, 1, size), (count, size, size))
        named = {
            key: groups.cut(batch[key], count) for key in ("example_id", "text") if key in batch
        }
        allowed = seen & ~same_pair(named, size, self.exclude)

        similarity = jax.lax.stop_gradient(self._similarity(net, views))  # f32[G text image]
        image_rng, text_rng = jax.random.split(net.make_rng("objective"))
        other_image = draw(image_rng, similarity, seen, allowed)
        other_text = draw(text_rng, similarity.mT, seen, allowed)
        return other_image.reshape(rows), other_text.reshape(rows), allowed.any(-1).reshape(rows)

    def _similarity(self, net, views):
        """Cosines over the temperature of the pairs of each group, f32[G text image]."""
        text, image = net.text_feature(views), net.image_feature(views)
        text, image = (groups.cut(x, views.groups) for x in (text, image))
        return jnp.einsum("gtd,gid->gti", text, image) / net.clipped_temperature()


def draw(rng, similarity, seen, allowed):
    """One column i32[... B] per row, with chances softmax(similarity) + 1e-5 as published.

    Args:
        rng: a key.
        similarity: f32[... B B].
        seen: bool[... B B], columns over which the softmax is taken.
        allowed: bool[... B B], columns that may be drawn; a row without any gets an arbitrary one.
    """
    chances = jax.nn.softmax(jnp.where(seen, similarity, jnp.finfo(jnp.float32).min)) + 1e-5
    # NaN similarities, or nothing to choose from, must not make the draw NaN: uniform instead.
    chances = jnp.where(jnp.isfinite(chances), chances, 1e-5)
    anything = ~allowed.any(axis=-1, keepdims=True)
    return jax.random.categorical(rng, jnp.log(jnp.where(allowed | anything, chances, 0.0)))


def _metrics(logits, labels, weights):
    """Accuracy of all, and how often a match scores above its own two negatives.

    Negatives are two in three, so "never a match" already has an accuracy of 2/3.
    """
    accuracy, _ = weighted_mean(logits.argmax(-1) == labels, weights)
    score = logits[..., 1] - logits[..., 0]  # f32[B 3]
    ranked, _ = weighted_mean(score[:, :1] > score[:, 1:], weights[:, 1:])
    return {"accuracy": accuracy, "ranking": ranked}
