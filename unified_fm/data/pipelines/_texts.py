"""Options of pipelines that read texts alone: pairs of them, and long documents."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data import documents
from unified_fm.data.pipelines.base import Arrays, TextOptions
from unified_fm.data.skips import Parts, Skip
from unified_fm.data.sources.base import Source

_UNUSED = np.random.default_rng(0)  # of one text nothing is drawn
_LEAST_OF_A_PAIR = 6  # RoBERTa's cls and three seps, and a word of each text


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairOptions(TextOptions):
    """A text alone, or a pair of texts with `segments`, which say which is which.

    Attributes:
        second: the example's field with the second text ("hypothesis"); "" for a text alone.
    """

    second: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second and self.max_len < _LEAST_OF_A_PAIR:
            raise ValueError(
                f"max_len is {self.max_len}; two texts (second={self.second!r}) need"
                f" {_LEAST_OF_A_PAIR}"
            )

    def sample(self) -> dict[str, Any]:
        """As `Pipeline.sample`, with the second text."""
        return super().sample() | ({self.second: "a"} if self.second else {})

    def texts_of(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """The arrays of the example's text, or of its two.

        Raises:
            Skip: one of them is unusable.
        """
        text = self.pick_text(example.get("text"), rng)
        if not self.second:
            return self.text_arrays(text, rng)
        try:
            second = self.pick_text(example.get(self.second), rng)
        except Skip as skip:
            raise Skip(f"{skip.reason} in {self.second!r}", skip.detail) from skip
        return self.text_arrays(text, rng, second)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentOptions(TextOptions):
    """What becomes of texts that are longer than a row.

    Attributes:
        long: "cut" keeps the beginning and counts the text as cut; "chunks" makes a row of each
            part; "packed" fills rows with whole documents and parts, a sep after each. For the last
            two every text of a list is a document, and the stream counts rows (`documents`).
    """

    long: str = "cut"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("long", self.long, ("cut", *documents.KINDS))

    def records_of(self, source: Source) -> Source:
        """The source itself, or its documents as rows."""
        return source if self.long == "cut" else self.rows_of(source, self.max_len - 2)

    def rows_of(self, source: Source, room: int) -> documents.Rows:
        """The documents of a source as rows of so many tokens; `long` says how, but "cut"."""
        return documents.Rows(
            source,
            texts=self.documents_of,
            pieces=self.tokenizer.pieces,
            room=room,
            kind=self.long,
            extra=self.tokenizer.extra_of_a_part,
        )

    def documents_of(self, example: dict[str, Any]) -> Sequence[str]:
        """All texts of an example, clean.

        Raises:
            Skip: one of them is unusable, or there is none.
        """
        found = example.get("text")
        texts = found if isinstance(found, list | tuple) and found else [found]
        return [self.pick_text(text, _UNUSED) for text in texts]

    def row_arrays(self, texts: Sequence[str], rng: np.random.Generator) -> Arrays:
        """The arrays of a row of `documents.Rows`.

        Raises:
            Skip: nothing is in it.
        """
        if not any(text and not text.isspace() for text in texts):
            raise Skip("empty text")
        encoded = self.tokenizer.encode_row(texts, self.max_len)
        arrays = self.encoded_arrays(encoded, rng)
        # A part of a text may have a piece more than it had in the whole.
        return arrays | ({"parts": Parts(cut=1)} if encoded.cut else {})
