"""Masked language modelling by the language encoder (X-FM section 2.2, BERT)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from unified_fm.objectives import base
from unified_fm.objectives.base import (
    Output,
    masked_word_loss,
    row_weights,
    take_positions,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy of the masked words, mean over all of them; trains the language encoder.

    Reads `text_masked`, `text_mask`, `masked_positions`, `masked_ids` and `weight` of a batch.
    """

    reads: ClassVar[Mapping[str, bool]] = {"text_masked": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        x = take_positions(views.text_masked, batch["masked_positions"])  # f[B K D]
        return masked_word_loss(net.mlm_head, x, batch["masked_ids"], row_weights(batch, len(x)))
