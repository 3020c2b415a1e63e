"""A floor for masked words: a model that counts which words stand beside which, and learns nothing.

A hidden word w between the neighbours l and r has a probability proportional to

    (p(w | l) p(w | r))^a p(w)^c,     p(w | l) = (n(l w) + k p(w)) / (n(l) + k), and r likewise

with counts n over the whole training text, and k, a and c by which words that are hidden in a part
of it are best told. It sees what the student sees: a neighbour that is hidden as well says
nothing, one that was exchanged misleads. What stands in the hidden place itself it does not see.
"""

import dataclasses
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from unified_fm import files
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.skips import Skip
from unified_fm.evaluators import mlm

KEY = "words/bigram"  # of this floor, in a results.json
_EVERY = 250  # of the training text a record for the choice of k, a and c
_ROWS = 1000  # of hidden words that are looked at at once


class Hidden(NamedTuple):
    """Hidden words and what stands beside them, i[M] each."""

    left: np.ndarray
    right: np.ndarray
    word: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bigram:
    """The model.

    Attributes:
        pairs: i[V V], how often the second token follows the first.
        special: bool[V], tokens that are no words.
        words: f[V], shares of the tokens; none is 0.
        smoothing: k.
        neighbours: a.
        prior: c.
    """

    pairs: np.ndarray
    special: np.ndarray
    words: np.ndarray
    smoothing: float = 100.0
    neighbours: float = 1.0
    prior: float = -1.0

    def losses(self, hidden: Hidden) -> np.ndarray:
        """Cross-entropy f64[M] of each hidden word, in nats."""
        starts = range(0, len(hidden.word), _ROWS)
        parts = [Hidden(*(column[s : s + _ROWS] for column in hidden)) for s in starts]
        return np.concatenate([self._losses(part) for part in parts])

    def _losses(self, hidden: Hidden) -> np.ndarray:
        beside = self._beside(self.pairs[hidden.left]) + self._beside(self.pairs.T[hidden.right])
        logits = self.neighbours * beside + self.prior * np.log(self.words)
        highest = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
        return total - logits[np.arange(len(logits)), hidden.word]

    def _beside(self, counts: np.ndarray) -> np.ndarray:
        """log p(w | neighbour) f64[n V] of what was counted beside each, i[n V]."""
        k, counts = self.smoothing, np.where(self.special, 0, counts)
        return np.log(counts + k * self.words) - np.log(counts.sum(axis=1, keepdims=True) + k)

    def fitted(self, hidden: Hidden) -> "Bigram":
        """The same counts with the k, a and c of the least mean loss of these words."""

        def of(point):
            log_k, a, c = point
            given = dict(smoothing=float(np.exp(log_k)), neighbours=float(a), prior=float(c))
            return dataclasses.replace(self, **given)

        start = np.array([np.log(self.smoothing), self.neighbours, self.prior])
        found = scipy.optimize.minimize(
            lambda point: of(point).losses(hidden).mean(),
            start,
            method="Nelder-Mead",
            options=dict(xatol=0.01, fatol=1e-4, maxfev=200),
        )
        return of(found.x)


def count(rows: Iterable[np.ndarray], special: np.ndarray) -> Bigram:
    """Counts neighbours.

    Args:
        rows: the token ids of each text, i[n], cls and sep included.
        special: bool[V], tokens that are no words: they are neighbours, and never what is hidden.
    """
    size = len(special)
    codes = np.concatenate([row[:-1].astype(np.int64) * size + row[1:] for row in rows])
    pairs = np.bincount(codes, minlength=size**2).reshape(size, size)
    shares = np.where(special, 0, pairs.sum(axis=0)) + 1.0  # one more, so that none is impossible
    return Bigram(pairs=pairs, special=special, words=shares / shares.sum())


def floor(settings: Settings, name: str = "words") -> float:
    """The mean loss at the very places that an evaluator of masked words asks about, in nats.

    Args:
        settings: of a run.
        name: of the evaluator, an `mlm`.

    Raises:
        ValueError: its data cannot be read.
    """
    tokenizer = tokenizers.load(settings.tokenizer)
    kept = settings.evaluate.replace(evaluators={name: settings.evaluate.evaluators[name]})
    asked = chosen.evaluators(settings.replace(evaluate=kept), tokenizer)[name]
    assert isinstance(asked, mlm.Evaluator), type(asked)
    rows, apart = _training(asked)
    counted = count(rows, np.asarray(tokenizer.is_special))
    return float(counted.fitted(apart).losses(hidden(asked.load().arrays)).mean())


def add(path: Path, found: dict[str, Any], settings: Settings, known: float | None = None) -> None:
    """Puts the floor into results.json if it is not there.

    Args:
        path: of results.json.
        found: what it holds.
        settings, known: of a run, whose floor is counted, which takes minutes; or what it is.
    """
    if KEY not in found["floors"]:
        if known is None:
            logging.info("counting words and their neighbours, for the floor of a bigram model")
            known = floor(settings)
        found["floors"][KEY] = known
        files.write_whole(path, json.dumps(found, indent=1) + "\n")


def hidden(arrays: Mapping[str, Any]) -> Hidden:
    """The hidden words of `text_masked i[N L]`, `masked_positions` and `masked_ids i[N K]`."""
    used = arrays["masked_ids"] >= 0
    row, place = np.nonzero(used)[0], arrays["masked_positions"][used]
    text = arrays["text_masked"]
    return Hidden(text[row, place - 1], text[row, place + 1], arrays["masked_ids"][used])


def _training(asked: mlm.Evaluator) -> tuple[list[np.ndarray], Hidden]:
    """The training text's rows i[n], and the words that are hidden in a few others of its texts."""
    pipeline, rows, apart = asked.made_pipeline, [], []
    for index, record in asked.records(asked.train_source, sys.maxsize):
        rng = asked.rng(index)
        try:
            text = pipeline.pick_text(record.get("text"), rng)
        except Skip:  # as in training
            continue
        if index % _EVERY:
            encoded = asked.vocabulary.encode(text, pipeline.max_len)
            rows.append(encoded.ids[encoded.mask])
        else:
            apart.append(pipeline.text_arrays(text, rng))
    names = ("text_masked", "masked_positions", "masked_ids")
    return rows, hidden({name: np.stack([each[name] for each in apart]) for name in names})
