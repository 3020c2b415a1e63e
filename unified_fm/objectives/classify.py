"""Classification of images by the image head: the supervised loss of ViT, and of UFM's images."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import optax

from unified_fm import choices
from unified_fm.objectives import base
from unified_fm.objectives.base import Output, row_weights, weighted_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy of the class, mean over the images.

    Reads `label i32[B]` (or `labels f[B C]`, several classes or soft ones) and `weight` of a batch.
    Metrics: `accuracy`, the share of images whose most probable class is the most labelled one.

    Attributes:
        loss: "softmax", or "sigmoid": one yes-no question for each class, summed over the classes,
            as ViT is trained on ImageNet-21k (the image head's bias then starts at -10).
        label_smoothing: share of the target that is spread over all classes (softmax), or by which
            yes and no are moved towards 1/2 (sigmoid).
    """

    reads: ClassVar[Mapping[str, bool]] = {"image": True}

    loss: str = "softmax"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        choices.check("classify.loss", self.loss, ("softmax", "sigmoid"))
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)")

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        logits = net.image_head(views.image[:, 0]).astype(jnp.float32)  # f32[B C]
        chex.assert_rank(logits, 2)
        labels = _labels(batch, logits.shape[-1])
        smoothed = self._smoothed(labels)
        if self.loss == "softmax":
            loss = optax.softmax_cross_entropy(logits, smoothed)
        else:
            loss = optax.sigmoid_binary_cross_entropy(logits, smoothed).sum(-1)
        weights = row_weights(batch, len(logits))
        mean, denominator = weighted_mean(loss, weights)
        accuracy, _ = weighted_mean(logits.argmax(-1) == labels.argmax(-1), weights)
        return Output(loss=mean, denominator=denominator, metrics={"accuracy": accuracy})

    def _smoothed(self, labels):
        spread = 1 / labels.shape[-1] if self.loss == "softmax" else 1 / 2
        return (1 - self.label_smoothing) * labels + self.label_smoothing * spread


def _labels(batch, classes: int):
    """The target of each image, f32[B C]."""
    if "labels" in batch:
        if batch["labels"].shape[-1] != classes:
            raise ValueError(
                f"objective 'classify': the batch's labels have {batch['labels'].shape[-1]} "
                f"classes, the image head {classes}"
            )
        return batch["labels"].astype(jnp.float32)
    if "label" not in batch:
        raise ValueError(
            "objective 'classify' needs `label` or `labels`; the batch has "
            f"{', '.join(sorted(batch))} (pipeline 'classify', or 'image' with labels='class')"
        )
    return jax.nn.one_hot(batch["label"], classes)
