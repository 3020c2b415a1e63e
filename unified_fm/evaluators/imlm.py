"""Masked object word: the name of an object is hidden in the caption and read off the image.

The caption's other words hardly tell which object it is, so this measures what the fusion encoder
sees (X-FM's IMLM, section 2.3, at one chosen word). The guess is free: the best token of the whole
vocabulary at each piece of the word, all pieces right. Chance is the best constant answer: the word
that is masked most often in these examples.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from unified_fm import queries
from unified_fm.evaluators import base
from unified_fm.evaluators._batches import in_batches, stack
from unified_fm.evaluators.base import Metric, WordExample

_GUESSES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """Accuracy at one object word per caption, drawn by the seed.

    Attributes:
        words: the words that may be masked; empty: each record's own `objects`.
        shown: captions kept for the report.
    """

    words: tuple[str, ...] = ()
    shown: int = 12

    metric_names = ("object_word/accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the accuracy.

        Raises:
            ValueError: no caption contains one of the words.
        """
        held, processes = self.load(), self.passes.processes
        rows, own = self._masked(held)
        guesses, found = {}, {}
        if own:
            guesses = in_batches(
                apply, _guesses, params, rows, self.rows, images=held.arrays["image"]
            )
            target = rows["masked_ids"]
            right = (guesses["ids"][..., 0] == target) | (target < 0)
            found = {"right": right.all(axis=1)}
        words, right = processes.gather_values(own), processes.gather(found).get("right")
        if not words:
            raise ValueError(
                f"no caption of {self.source!r} contains a word to mask: give `words`, or records"
                " with `objects` that name what their caption names"
            )
        counts = collections.Counter(words)
        word, most = counts.most_common(1)[0]
        yield base.share(
            "object_word/accuracy",
            right,
            chance=most / len(words),
            chance_is=f"always {word!r}, of {len(counts)} words",
        )
        self.examples.extend(self._shown(held, rows, own, guesses))

    def _masked(self, held: base.Pass) -> tuple[dict[str, np.ndarray], list[str]]:
        rows, words = [], []
        pieces = _Pieces(self.vocabulary)
        for row, number, record in held.numbered():
            text, mask = held.arrays["text"][row], held.arrays["text_mask"][row]
            ids = text[mask]
            places = [
                (word, span)
                for word in dict.fromkeys(self.words or record.get("objects", ()))
                if (span := pieces.find(ids, word)) is not None
            ]
            if places:
                word, (start, end) = places[self.rng(number).integers(len(places))]
                masked = text.copy()
                masked[start:end] = self.vocabulary.mask_id
                rows.append(
                    {"text": text, "text_mask": mask, "text_masked": masked}
                    | {"image_row": np.int32(row), "span": np.array([start, end])}
                )
                words.append(word)
        return _with_slots(stack(rows)), words

    def _shown(self, held, rows, words, guesses) -> Iterator[WordExample]:
        for row in range(min(self.shown, len(words))):
            text, mask = rows["text"][row], rows["text_mask"][row]
            slots = rows["masked_ids"][row] >= 0
            at = rows["masked_positions"][row][slots]
            before = self.vocabulary.decode(text[: at[0]])
            after = self.vocabulary.decode(text[at[-1] + 1 :][mask[at[-1] + 1 :]])
            ids, shares = guesses["ids"][row, slots], guesses["shares"][row, slots]
            if len(at) == 1:
                listed = [
                    (self.vocabulary.decode([i]), float(s))
                    for i, s in zip(ids[0], shares[0], strict=True)
                ]
            else:  # the best pieces, put together
                listed = [(self.vocabulary.decode(ids[:, 0]), float(shares[:, 0].prod()))]
            image = held.arrays["image"][rows["image_row"][row]]
            yield WordExample(image, f"{before} ____ {after}", words[row], listed)


class _Pieces:
    """Finds a whole word among the tokens of a caption."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._known: dict[str, list[list[int]]] = {}

    def find(self, ids: Sequence[int], word: str) -> tuple[int, int] | None:
        """First (start, end) at which `ids` spell the whole word; None if they do not."""
        ids = [int(i) for i in ids]
        for pieces in self._spellings(word):
            for start in range(1, len(ids) - len(pieces)):
                end = start + len(pieces)
                if ids[start:end] == pieces and self._whole(ids, start, end):
                    return start, end
        return None

    def _spellings(self, word):
        """A byte-level vocabulary has another piece after a space than at the beginning."""
        if word not in self._known:
            found = []
            for text in (word, f" {word}"):
                encoded = self._tokenizer.encode(text, 32)
                pieces = [int(i) for i in encoded.ids[encoded.mask][1:-1]]
                if pieces and pieces not in found:
                    found.append(pieces)
            self._known[word] = found
        return self._known[word]

    def _whole(self, ids, start, end):
        """Whether no letter touches the span: "cat" is not a word of "catalogue"."""
        decode = self._tokenizer.decode
        word = decode(ids[start:end]).strip()
        until = decode(ids[1:end])
        before = until[: len(until) - len(word)]
        further = decode(ids[1 : end + 1])[len(until) :]
        return not before[-1:].isalnum() and not further[:1].isalnum()


def _with_slots(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns `span` into masked_positions and masked_ids i32[N K]; -100 marks an unused slot."""
    if not rows:
        return {}
    span = rows.pop("span")
    slots = np.arange((span[:, 1] - span[:, 0]).max())
    positions = span[:, :1] + slots
    used = positions < span[:, 1:]
    positions = np.where(used, positions, 0)
    ids = np.where(used, np.take_along_axis(rows["text"], positions, axis=1), -100)
    return rows | {
        "masked_positions": positions.astype(np.int32),
        "masked_ids": ids.astype(np.int32),
    }


def _guesses(net, batch):
    """The best tokens at the masked positions: ids i32[B K 5] and their probabilities."""
    found = queries.words_over_images(net, batch)["shares"]
    shares, ids = jax.lax.top_k(found, min(_GUESSES, found.shape[-1]))
    return {"ids": ids, "shares": shares}
