"""Masked language modelling by the language encoder (X-FM section 2.2, BERT)."""

import dataclasses

from unified_fm.objectives.base import (
    Output,
    masked_word_loss,
    require,
    row_weights,
    take_positions,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Cross-entropy of the masked words, mean over all of them; trains the language encoder.

    Reads `text_masked`, `text_mask`, `masked_positions`, `masked_ids` and `weight` of a batch.
    """

    def __call__(self, net, views, batch) -> Output:
        require("mlm", views, ("text_masked",), batch)
        x = take_positions(views.text_masked, batch["masked_positions"])  # f[B K D]
        return masked_word_loss(net.mlm_head(x), batch["masked_ids"], row_weights(batch, len(x)))
