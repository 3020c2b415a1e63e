"""An input and its class: fine-tuning, probes, and the supervised image stream of UFM."""

import dataclasses
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data.pipelines._texts import PairOptions
from unified_fm.data.pipelines.base import Arrays, ImageOptions, label
from unified_fm.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, PairOptions):
    """Gives `label i32` and, by `inputs`, `image u8[H W 3]` or `text i32[L]`, `text_mask bool[L]`
    (of pairs, `second`, also `segments i32[L]`).

    Attributes:
        inputs: "image" or "text".
    """

    inputs: str = "image"
    tokenizer: Tokenizer | None = None
    num_masked: int = 0
    max_len: int = 128
    mask_rate: float = 0.0
    clean: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("inputs", self.inputs, ("image", "text"))
        if self.inputs == "text" and self.tokenizer is None:
            raise ValueError('inputs="text" needs a tokenizer; none was given')

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable input or label."""
        target = {"label": label(example)}
        if self.inputs == "image":
            return self.image_arrays(example, rng) | target
        return self.texts_of(example, rng) | target
