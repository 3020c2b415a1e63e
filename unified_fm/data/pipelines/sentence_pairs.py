"""Two pieces of text, of which the second follows the first or not: BERT's next-sentence pairs."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm.data import documents
from unified_fm.data.pipelines._texts import DocumentOptions
from unified_fm.data.pipelines.base import Arrays
from unified_fm.data.skips import Skip
from unified_fm.data.sources.base import Source

FOLLOWS, RANDOM = 0, 1  # as published
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[\u3002\uff01\uff1f])|\s*\n\s*")
_WORD = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(DocumentOptions):
    """Gives what `text` gives, `segments i32[L]`, and `next_sentence i32`: 0 = the second piece
    follows the first in its document, 1 = it is of another one (arXiv 1810.04805, 3.1 and A.2).

    Every part of a document that fills a row is cut between two of its sentences, drawn anew in
    each epoch (between two words, where it has one sentence only). The second piece is what
    follows, or the beginning of another row's text from one of its sentences on. Published, the
    sentences that such a draw displaces begin the next pair; here they wait for another epoch.

    Attributes:
        random_next: share of pairs whose second piece is of another document.
        short: share of rows that are cut to a random number of their sentences, so that the model
            sees short texts, too.
    """

    max_len: int = 128
    mask_rate: float = 0.15
    max_masked: int = 20
    clean: str = "none"
    long: str = "chunks"
    random_next: float = 0.5
    short: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.long != "chunks":
            raise ValueError(f'long is {self.long!r}; sentence pairs are made of "chunks"')
        if self.max_len < 6:
            raise ValueError(f"max_len is {self.max_len}; two texts need 6")
        for name, share in (("random_next", self.random_next), ("short", self.short)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it is a share, 0 to 1")

    def records_of(self, source: Source) -> Source:
        """Rows with room for two texts, each of which knows the others."""
        rows = self.rows_of(source, self.max_len - 1 - self.tokenizer.seps_of_a_pair)
        if len(rows) < 2:
            raise ValueError(
                f"the source has {len(rows)} rows of text; pairs of different ones need 2"
            )
        return _Neighbours(rows)

    def sample(self) -> dict[str, Any]:
        """As `Pipeline.sample`, with a row."""
        return super().sample() | {documents.ROW: ["a b"], "elsewhere": _Elsewhere(None, 0)}

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable text here, or in the other row that is drawn."""
        if documents.ROW not in example:
            raise Skip("no row of a document")
        text = "".join(example[documents.ROW]).strip()
        if not text:
            raise Skip("empty text")
        starts = _starts(text)
        if rng.random() < self.short and len(starts) > 2:
            text = text[: starts[int(rng.integers(2, len(starts)))]]
            starts = _starts(text)
        random = len(starts) < 2 or rng.random() < self.random_next
        at = starts[int(rng.integers(1, len(starts)))] if len(starts) > 1 else len(text)
        first, second = text[:at].rstrip(), text[at:]
        if random:
            second = _some(example["elsewhere"].draw(rng), len(second) or len(text), rng)
        encoded = self.tokenizer.encode(first, self.max_len, second)
        arrays = self.encoded_arrays(encoded, rng) | {"segments": encoded.segments}
        return arrays | {"next_sentence": np.int32(RANDOM if random else FOLLOWS)}


class _Elsewhere:
    """Gives the texts of other documents. Its text is the same for all: sources are hashed."""

    def __init__(self, rows: documents.Rows | None, index: int):
        self._rows, self._index = rows, index

    def draw(self, rng: np.random.Generator) -> str:
        """The text of a row of another document. Raises `Skip` if it cannot be read."""
        if self._rows is None:
            return "a b"
        other = self._rows.other_document(self._index, lambda n: int(rng.integers(n)))
        text = "".join(self._rows[other][documents.ROW]).strip()
        if not text:
            raise Skip("empty text")
        return text

    def __repr__(self) -> str:
        return "elsewhere"


class _Neighbours(Source):
    """Rows, of which each can ask for another."""

    def __init__(self, rows: documents.Rows):
        self._rows = rows
        self.problems, self.lost = rows.problems, rows.lost
        self.class_names = rows.class_names

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index] | {"elsewhere": _Elsewhere(self._rows, index)}

    def place(self, index: int) -> str:
        return self._rows.place(index)


def _starts(text: str) -> Sequence[int]:
    """Where sentences begin, 0 first; of a single one, where its words do."""
    for pattern in (_SENTENCE, _WORD):
        ends = {match.end() for match in pattern.finditer(text)}
        if found := sorted(end for end in ends if 0 < end < len(text)):
            return [0, *found]
    return [0]


def _some(text: str, characters: int, rng: np.random.Generator) -> str:
    """About so many characters of a text from one of its sentences on, whole words."""
    starts = _starts(text)
    text = text[starts[int(rng.integers(len(starts)))] :]
    if len(text) <= characters:
        return text
    space = text.rfind(" ", 1, characters + 1)
    return text[: space if space > 0 else characters]
