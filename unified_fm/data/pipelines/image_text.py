"""An image and its caption: the stream of pairs."""

import dataclasses
from typing import Any

import numpy as np

from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions, example_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions):
    """Gives the keys of the text and the image pipeline, and `example_id i32`.

    Of several captions a random one is taken, and cleaned as X-FM 1.7.
    """

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable image or caption."""
        text = self.pick_text(example.get("text"), rng)
        arrays = self.image_arrays(example, rng, [text])
        return arrays | self.text_arrays(text, rng) | {"example_id": example_id(example)}
