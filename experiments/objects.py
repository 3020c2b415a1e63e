"""`experiments.objects:SPLIT?OPTIONS`: `demo:objects/SPLIT?OPTIONS` with a `label`.

The label is the number of the drawing; of several in an image, that of the largest.
"""

from typing import Any

from unified_fm.data.source import open_source
from unified_fm.data.sources import base


class Source(base.Source):
    """The composed images of the demo corpus, labelled."""

    def __init__(self, argument: str):
        self._images = open_source(f"demo:objects/{argument}")
        self.class_names = tuple(self._images.names)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._images[index]
        areas = [region["box"][2] * region["box"][3] for region in example["regions"]]
        largest = example["objects"][max(range(len(areas)), key=areas.__getitem__)]
        return {**example, "label": self.class_names.index(largest)}
