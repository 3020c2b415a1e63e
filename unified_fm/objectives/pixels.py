"""Masked image modelling towards pixels, by a linear head (SimMIM, MAE): images without labels."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from unified_fm.objectives import base
from unified_fm.objectives.base import Output, row_weights, standardised, weighted_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Squared error of the pixels of masked patches, mean over pixels and over those patches.

    Reads `image`, `patch_mask` and `weight` of a batch; the model has a mask token and `mim_head`.

    Attributes:
        normalised: give the pixels of each patch mean 0 and variance 1 (MAE): structure instead of
            brightness.
    """

    reads: ClassVar[Mapping[str, bool]] = {"image_masked": True}

    normalised: bool = True

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        guess = net.mim_head(views.image_masked[:, 1:]).astype(jnp.float32)  # f32[B N 3pp]
        target = _patches(batch["image"], math.isqrt(guess.shape[-1] // 3))
        if self.normalised:
            target = standardised(target)
        error = jnp.square(guess - target).mean(-1)  # f32[B N]
        weights = row_weights(batch, len(error))[:, None] * batch["patch_mask"]
        loss, denominator = weighted_mean(error, weights)
        return Output(loss=loss, denominator=denominator)


def _patches(image, size: int):
    """Pixels f32[B N 3pp] of every patch, row by row, of images u8[B H W 3] (as 0..1) or f[...]."""
    if image.dtype == jnp.uint8:
        image = image / 255.0
    rows, height, width, channels = image.shape
    x = image.reshape(rows, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).astype(jnp.float32)
    return x.reshape(rows, (height // size) * (width // size), -1)
