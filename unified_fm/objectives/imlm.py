"""Masked language modelling with the image in sight (X-FM section 2.3)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from unified_fm.objectives import base
from unified_fm.objectives.base import (
    Fuse,
    Result,
    masked_word_loss,
    row_weights,
    take_positions,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy of the masked words of a caption, predicted by the fusion encoder.

    Reads `text_masked`, `text_mask`, `masked_positions`, `masked_ids` and `weight` of a batch.

    Attributes:
        stop_text_gradient: fusion losses do not move the language encoder (X-FM section 2.6).
    """

    stop_text_gradient: bool = True

    @property
    def reads(self) -> Mapping[str, bool]:
        return {"text_masked": not self.stop_text_gradient, "image_memory": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        text = views.text_masked  # f[B L D]
        if self.stop_text_gradient:
            text = jax.lax.stop_gradient(text)
        fused = yield Fuse(text=text, text_mask=batch["text_mask"], memory=views.image_memory)
        x = take_positions(fused, batch["masked_positions"])  # f[B K D]
        weights = row_weights(batch, len(x))
        return masked_word_loss(net.fusion_mlm_head, x, batch["masked_ids"], weights)
