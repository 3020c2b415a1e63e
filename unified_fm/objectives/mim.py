"""Masked image modelling towards an encoder's output for the unmasked image: the encoder's own
(X-FM section 2.4), that of its moving average, or that of a frozen teacher."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.objectives import base
from unified_fm.objectives.base import (
    Lesson,
    Output,
    row_weights,
    standardised,
    weighted_mean,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Squared error at the masked patches, plus that at the pooled slot; trains the masked pass.

    Reads `patch_mask` and `weight` of a batch. Images of one batch must have equally many masked
    patches for micro-batches to recombine exactly; the image pipelines see to that.

    Attributes:
        target: "self" = the encoder's own output for the unmasked image, as published; "ema" = that
            of the averaged parameters, read from `batch["teacher"]["ema"]["image"]` f[B 1+N D];
            "teacher:NAME" = that of the teacher NAME of the config, `image_hidden` f[B 1+N D],
            whose width and patches must be the student's.
        normalise_target: give each target vector mean 0 and variance 1, which a collapsed encoder
            cannot imitate.
        pooled: include the pooled slot (the published flag `mim_cls_only` drops it).
    """

    target: str = "self"
    normalise_target: bool = False
    pooled: bool = True

    def __post_init__(self) -> None:
        if not self._teacher:
            choices.check("mim.target", self.target, ("self", "ema", "teacher:NAME"))

    @property
    def _teacher(self) -> str:
        """The teacher's name; "": the target is no teacher's."""
        kind, _, name = self.target.partition(":")
        return name if kind == "teacher" else ""

    @property
    def reads(self) -> Mapping[str, bool]:
        own = {"image": False} if self.target == "self" else {}
        return {"image_masked": True, **own}

    @property
    def ema_reads(self) -> tuple[str, ...]:
        return ("image",) if self.target == "ema" else ()

    @property
    def lessons(self) -> Mapping[str, Lesson]:
        named = self._teacher
        return {named: Lesson("image_hidden", "hidden_mse", 1.0)} if named else {}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        target = self._target(views, batch)  # f[B 1+N D]
        target = jax.lax.stop_gradient(target).astype(jnp.float32)
        if self.normalise_target:
            target = standardised(target)
        chex.assert_equal_shape([views.image_masked, target])
        error = jnp.square(views.image_masked.astype(jnp.float32) - target).mean(-1)  # f32[B 1+N]

        weights = row_weights(batch, len(error))
        masked = weights[:, None] * batch["patch_mask"]
        patches = weighted_mean(error[:, 1:], masked)
        parts = {"patches": patches}
        if self.pooled:
            parts["pooled"] = weighted_mean(error[:, 0], weights)
        loss = cast(jax.Array, sum(value for value, _ in parts.values()))
        return Output(loss=loss, denominator=patches[1], parts=parts)

    def _target(self, views, batch):
        if self.target == "self":
            return views.image
        if self.target == "ema":
            return batch["teacher"]["ema"]["image"]
        told = {"who": "mim", "asks": f"target={self.target!r}"}
        target = base.taught(batch, self._teacher, "image_hidden", **told)
        mine = views.image_masked.shape
        base.check_alike(target.shape, mine, base.WIDTH, self._teacher, **told)
        return target
