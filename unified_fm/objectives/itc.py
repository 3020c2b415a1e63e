"""Image-text contrast over the global batch (CLIP, ALBEF, X-FM section 2.3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp

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
    """Cross-entropy of the match among all images for a text, and of all texts for an image.

    The loss is the mean over both directions and over the global batch, and so is its gradient, on
    any mesh. Reads `weight`, and `example_id` if the targets ask for it. A row of weight 0 is
    nobody's negative.

    Attributes:
        targets: "row" = row b belongs to row b; "ids" = to all rows of its `example_id`, in equal
            shares (retrieval fine-tuning); "texts" = to all rows with the same text.
        gradient_scale: multiplies the gradient towards the features, not that of the temperature.
            1 / W is what W devices do in the published program, whose gather returns only the local
            slice of the gradient.
        stop_text_gradient: the contrast does not move the language encoder; `text_proj` still
            learns. The published program lets it (X-FM section 2.6 stops the fusion losses alone).
    """

    # Rows are each other's negatives: parts of a batch do not add up to the whole.
    accumulates: ClassVar[bool] = False

    targets: str = "row"
    gradient_scale: float = 1.0
    stop_text_gradient: bool = False

    def __post_init__(self) -> None:
        choices.check("itc.targets", self.targets, SAME)

    @property
    def same(self) -> str:
        return self.targets

    @property
    def reads(self) -> Mapping[str, bool]:
        return {"text": not self.stop_text_gradient, "pooled": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        if self.stop_text_gradient:
            views = views.replace(text=jax.lax.stop_gradient(views.text))
        text = _scale_gradient(net.text_feature(views), self.gradient_scale)
        image = _scale_gradient(net.image_feature(views), self.gradient_scale)
        chex.assert_equal_shape([text, image])  # one image or region for each text
        similarity = text @ image.T / net.clipped_temperature()  # f32[text image]

        rows = len(text)
        weights = row_weights(batch, rows)
        same = same_pair(batch, rows, self.targets)
        to_image, to_text = (_cross_entropy(s, same, weights) for s in (similarity, similarity.T))
        loss, denominator = weighted_mean((to_image + to_text) / 2, weights)

        best = jnp.where(weights > 0, similarity, -jnp.inf).argmax(-1)
        right = jnp.take_along_axis(same, best[:, None], axis=1)[:, 0]
        metrics = {
            "accuracy": weighted_mean(right, weights)[0],
            "temperature": net.clipped_temperature(),
        }
        return Output(loss=loss, denominator=denominator, metrics=metrics)


def _cross_entropy(logits, same, weights):
    """Of each row f32[B], towards equal shares of the columns that are the same."""
    real = weights > 0  # bool[B], columns that may be seen
    logits = jnp.where(real, logits, jnp.finfo(jnp.float32).min)
    same = (same & real).astype(jnp.float32)
    share = same / jnp.maximum(same.sum(-1, keepdims=True), 1)
    return -(share * jax.nn.log_softmax(logits)).sum(-1)


def _scale_gradient(x, scale):
    if scale == 1:
        return x
    still = jax.lax.stop_gradient(x)
    return still + scale * (x - still)
