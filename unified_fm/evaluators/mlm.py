"""Masked language modelling on held-out text, against the unigram model of the training text.

The cross-entropy is in nats per masked token. The unigram guess gives every token its share among
the training text's tokens (one more of each, so that none is impossible) and is scored on the very
same masked tokens; special tokens are not counted.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import queries
from unified_fm.data.skips import Skip
from unified_fm.evaluators import base
from unified_fm.evaluators.base import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.Compared):
    """Cross-entropy and accuracy at the masked tokens; those of the training text are counted."""

    option_defaults: ClassVar[Mapping[str, Any]] = {}  # the masking is what is measured

    pipeline: str = "text"

    metric_names = ("cross_entropy", "accuracy")

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the cross-entropy and the accuracy."""
        rows = self.load().arrays
        scored = self.ask(apply, _scores, params, rows, keep=("masked_ids",))
        used = scored["masked_ids"] >= 0
        logs = unigram(self._counts)
        targets = scored["masked_ids"][used]
        yield base.mean(
            "cross_entropy",
            -scored["log_share"][used],
            chance=float(-logs[targets].mean()),
            chance_is="unigram of the training text",
            better="lower",
        )
        frequent = int(logs.argmax())
        yield base.share(
            "accuracy",
            scored["right"][used],
            chance=float((targets == frequent).mean()),
            chance_is=f"always {self.vocabulary.token(frequent)!r}",
        )

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        """How often each token is in the training text, i64[V]."""
        counts = np.zeros(self.vocabulary.vocab_size, np.int64)
        pipeline = self.made_pipeline
        for index, record in self.records(self.train_source, self.train_examples):
            try:
                text = pipeline.pick_text(record.get("text"), self.rng(index))
            except Skip:  # as in training
                continue
            encoded = self.vocabulary.encode(text, pipeline.max_len)
            counts += np.bincount(encoded.ids[encoded.mask], minlength=len(counts))
        counts = self.passes.processes.gather({"counts": counts[None]})["counts"].sum(axis=0)
        return np.where(self.vocabulary.is_special, 0, counts)


def unigram(counts: np.ndarray) -> np.ndarray:
    """log of the share of each token f[V], with one added to every count."""
    return np.log(counts + 1) - np.log(counts.sum() + len(counts))


def _scores(net, batch):
    """log-probability and correctness f[B K], bool[B K] at the masked positions."""
    logs = jax.nn.log_softmax(queries.word_logits(net, batch))
    target = jnp.maximum(batch["masked_ids"], 0)
    return {
        "log_share": jnp.take_along_axis(logs, target[..., None], axis=-1)[..., 0],
        "right": logs.argmax(-1) == target,
    }
