"""Images alone: the image stream."""

import dataclasses
from typing import Any

import numpy as np

from unified_fm.data.pipelines.base import Arrays, ImageOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions):
    """Gives `image u8[H W 3]` and `patch_mask bool[N]` (True = masked), augmented as X-FM 5.3.

    Images with their labels are what the pipeline `classify` gives.
    """

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable image."""
        return self.image_arrays(example, rng)
