"""Text alone, masked: the text stream."""

import dataclasses
from typing import Any

import numpy as np

from unified_fm.data import documents
from unified_fm.data.pipelines._texts import DocumentOptions, PairOptions
from unified_fm.data.pipelines.base import Arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(DocumentOptions, PairOptions):
    """Gives `text i32[L]`, `text_mask bool[L]` (True = real token), `text_masked i32[L]`,
    `masked_positions i32[K]`, `masked_ids i32[K]` (-100 = unused slot), and of pairs (`second`)
    `segments i32[L]`.

    One text of the example is taken (of a list a random one), raw as published (X-FM 1.7, 2.2).
    """

    max_len: int = 128
    mask_rate: float = 0.15
    max_masked: int = 20
    clean: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second and self.long != "cut":
            raise ValueError(
                f"long={self.long!r} makes rows of single texts, and second={self.second!r} asks"
                ' for pairs; possible: long="cut", or the pipeline sentence_pairs'
            )

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable text."""
        if documents.ROW in example:
            return self.row_arrays(example[documents.ROW], rng)
        return self.texts_of(example, rng)
