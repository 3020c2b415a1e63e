"""Images alone: the image stream."""

import dataclasses
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data.pipelines.base import Arrays, ImageOptions, label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions):
    """Gives `image u8[H W 3]`, `patch_mask bool[N]` (True = masked), and with labels="class"
    `label i32`. Augmentation as X-FM 5.3.

    Attributes:
        labels: "none", or "class": an example without a label is skipped.
    """

    labels: str = "none"

    def __post_init__(self):
        super().__post_init__()
        choices.check("labels", self.labels, ("none", "class"))

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable image or label."""
        labels = {"label": label(example)} if self.labels == "class" else {}
        return self.image_arrays(example, rng) | labels
