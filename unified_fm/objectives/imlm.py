"""Masked language modelling with the image in sight (X-FM section 2.3)."""

import dataclasses

import jax

from unified_fm.objectives.base import (
    Output,
    masked_word_loss,
    require,
    row_weights,
    take_positions,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Cross-entropy of the masked words of a caption, predicted by the fusion encoder.

    Reads `text_masked`, `text_mask`, `masked_positions`, `masked_ids` and `weight` of a batch.

    Attributes:
        stop_text_gradient: fusion losses do not move the language encoder (X-FM section 2.6).
    """

    stop_text_gradient: bool = True

    def __call__(self, net, views, batch) -> Output:
        require("imlm", views, ("text_masked", "image_memory"), batch)
        text = views.text_masked  # f[B L D]
        if self.stop_text_gradient:
            text = jax.lax.stop_gradient(text)
        fused = net.fuse(text=text, text_mask=batch["text_mask"], memory=views.image_memory)
        x = take_positions(fused, batch["masked_positions"])  # f[B K D]
        logits = net.fusion_mlm_head(x)
        return masked_word_loss(logits, batch["masked_ids"], row_weights(batch, len(x)))
