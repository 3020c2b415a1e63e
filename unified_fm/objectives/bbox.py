"""Predicting the box that a text speaks of (X-FM section 2.5)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.objectives import base
from unified_fm.objectives.base import Asking, Fuse, Output, Result, row_weights, weighted_mean

_NOTHING = 1e-12  # an area, as a share of the image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """L1 distance and 1 - GIoU of the box that the fusion encoder reads off the whole image.

    Both are means over the rows that describe a region; rows of `is_image` describe the whole
    image and have no box to find. Reads `box f32[R 4]` (cx, cy, w, h in 0..1), `is_image bool[R]`
    and `weight`.

    Attributes:
        stop_text_gradient: fusion losses do not move the language encoder (X-FM section 2.6).
        degenerate: when a predicted or true box has a negative side, "row" leaves that box out of
            the GIoU term (its denominator stays), "batch" drops the whole term, as published.
        l1_weight, giou_weight: of the two terms.
    """

    stop_text_gradient: bool = True
    degenerate: str = "row"
    l1_weight: float = 1.0
    giou_weight: float = 1.0

    def __post_init__(self) -> None:
        choices.check("bbox.degenerate", self.degenerate, ("row", "batch"))

    @property
    def reads(self) -> Mapping[str, bool]:
        return {"text": not self.stop_text_gradient, "image_memory": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        predicted = (yield from self.predict(net, views, batch))["box"]
        target = batch["box"].astype(jnp.float32)

        chex.assert_shape([predicted, target], (len(target), 4))
        weights = row_weights(batch, len(target)) * (1 - batch["is_image"].astype(jnp.float32))
        l1, boxes = weighted_mean(jnp.abs(predicted - target).sum(-1), weights)
        giou_loss, overlap = self._giou(predicted, target, weights)
        return Output(
            loss=self.l1_weight * l1 + self.giou_weight * giou_loss,
            denominator=boxes,
            metrics={"iou": weighted_mean(overlap, weights)[0]},
            parts={"l1": (l1, boxes), "giou": (giou_loss, boxes)},
        )

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Asking:
        """`box f32[R 4]` (cx, cy, w, h in 0..1)."""
        text = views.text  # f[R L D]
        if self.stop_text_gradient:
            text = jax.lax.stop_gradient(text)
        fused = yield Fuse(
            text=text, text_mask=batch["text_mask"], memory=views.image_memory, view="image"
        )
        return {"box": net.box_head(fused[:, 0])}

    def _giou(self, predicted, target, weights):
        """(mean of 1 - GIoU, IoU f32[R])."""
        predicted, target = corners(predicted), corners(target)
        good = _valid(predicted) & _valid(target)
        if self.degenerate == "batch":
            good = jnp.broadcast_to((good | (weights == 0)).all(), good.shape)
        # Bad boxes are replaced before the division: a NaN times 0 would still be NaN.
        unit = jnp.array([0.0, 0.0, 1.0, 1.0])
        predicted = jnp.where(good[:, None], predicted, unit)
        target = jnp.where(good[:, None], target, unit)
        overlap, value = giou(predicted, target)
        return weighted_mean(jnp.where(good, 1 - value, 0.0), weights)[0], overlap * good


def corners(box):
    """(x1, y1, x2, y2) of boxes (cx, cy, w, h), f[... 4]; not clipped."""
    centre, size = box[..., :2], box[..., 2:]
    return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def giou(a, b):
    """(IoU, generalised IoU) f[...] of boxes (x1, y1, x2, y2) f[... 4].

    GIoU = I/U - (hull - U)/hull (Rezatofighi et al. 2019). A quotient by an area below 1e-12 of the
    image, a millionth of its side squared, is 0 and has no gradient.
    """
    intersection = _area(jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    hull = _area(jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:]))
    iou = _share(intersection, union)
    return iou, iou - _share(hull - union, hull)


def _share(part, whole):
    """part / whole, and 0 where the whole is nothing, as it is for two points or two lines.

    Its derivative divides by the square of the whole, which underflows long before the whole does:
    both values and the divisor are replaced, or NaN would come back through the branch not taken.
    """
    something = whole > _NOTHING
    return jnp.where(something, part, 0.0) / jnp.where(something, whole, 1.0)


def _area(low, high):
    side = jnp.maximum(high - low, 0)
    return side[..., 0] * side[..., 1]


def _valid(box):
    return jnp.isfinite(box).all(-1) & (box[..., 2:] >= box[..., :2]).all(-1)
