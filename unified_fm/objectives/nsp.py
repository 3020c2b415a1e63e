"""Next-sentence prediction: does the second text of a pair follow the first? (arXiv 1810.04805)"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import optax

from unified_fm.objectives import base
from unified_fm.objectives.base import Output, row_weights, weighted_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy of "follows" (class 0) and "does not" (1), mean over the pairs.

    It reads the masked texts, as published: one pass serves it and `mlm`. Reads `next_sentence
    i32[B]` (pipeline `sentence_pairs`) and `weight` of a batch. The model needs a head for it:
    `bert` has one. Metrics: `accuracy`; a coin has 0.5.
    """

    reads: ClassVar[Mapping[str, bool]] = {"text_masked": True}

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        if "next_sentence" not in batch:
            raise ValueError(
                "objective 'nsp' needs `next_sentence`; the batch has"
                f" {', '.join(sorted(batch))} (pipeline 'sentence_pairs')"
            )
        logits = net.next_sentence(views.text_masked)  # f32[B 2]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["next_sentence"])
        weights = row_weights(batch, len(logits))
        mean, denominator = weighted_mean(loss, weights)
        accuracy, _ = weighted_mean(logits.argmax(-1) == batch["next_sentence"], weights)
        return Output(loss=mean, denominator=denominator, metrics={"accuracy": accuracy})
