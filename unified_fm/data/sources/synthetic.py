"""`synthetic:KIND` or `synthetic:KIND:COUNT`: made examples that depend only on their index.

    synthetic:text       sentences of common words
    synthetic:image      drawings of coloured shapes, 64 x 80 pixels, with a label (the shape)
    synthetic:pairs      such drawings with two captions
    synthetic:regions    such drawings with a box and a text per shape, and a caption
    synthetic:pairs:500  500 of them; 1,024 without a number

For smoke tests: the content varies, and pictures and words agree, but nothing is worth learning.
"""

from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data.sources import base

_KINDS = ("text", "image", "pairs", "regions")
_COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 220),
    "yellow": (240, 210, 40),
}
_SHAPES = ("square", "disc", "cross")
_WORDS = ["the", "a", "one", "this", "old", "small", "red", "quiet", "dog", "river", "house"]
_WORDS += ["child", "city", "book", "wind", "garden", "song", "train", "runs", "sees", "finds"]
_WORDS += ["keeps", "opens", "near", "under", "behind", "with", "through", "over", "at", "night"]
_WORDS += ["winter"]
_HEIGHT, _WIDTH = 64, 80


class Source(base.Source):
    """Random access to made examples; see the module for the kinds."""

    def __init__(self, argument: str):
        """Raises ValueError for an unknown kind or a count that is not a number."""
        kind, _, count = argument.partition(":")
        if kind not in _KINDS:
            raise ValueError(f"synthetic:{kind} is unknown; {choices.possible(kind, _KINDS)}")
        if count and not count.isdigit():
            raise ValueError(f"synthetic:{argument}: {count!r} is not a number of examples")
        self._kind = kind
        self._count = int(count or 1024)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([_KINDS.index(self._kind), index])
        if self._kind == "text":
            return {"id": index, "text": " ".join(rng.choice(_WORDS, rng.integers(5, 60)))}
        image, regions, label = _drawing(rng)
        example: dict[str, Any] = {"id": index, "image": image}
        names = [region["text"] for region in regions]
        if self._kind == "image":
            example["label"] = label
        if self._kind in ("pairs", "regions"):
            example["text"] = [f"a {' and a '.join(names)}", f"a picture of a {', a '.join(names)}"]
        if self._kind == "regions":
            example["regions"] = regions
        return example


def _drawing(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]], int]:
    """u8[H W 3], its regions, and the class of its first shape."""
    image = np.empty((_HEIGHT, _WIDTH, 3), np.uint8)
    image[:] = rng.integers(190, 256, 3)
    regions, first = [], 0
    for k in range(rng.integers(1, 4)):
        shape, colour = int(rng.integers(len(_SHAPES))), rng.choice(list(_COLOURS))
        side = int(rng.integers(14, 25))
        y, x = int(rng.integers(_HEIGHT - side)), int(rng.integers(_WIDTH - side))
        image[y : y + side, x : x + side][_stencil(shape, side)] = _COLOURS[colour]
        regions.append({"box": [x, y, side, side], "text": f"{colour} {_SHAPES[shape]}"})
        first = shape if k == 0 else first
    return image, regions, first


def _stencil(shape: int, side: int) -> np.ndarray:
    """bool[side side]: where the shape is."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    if _SHAPES[shape] == "disc":
        return y**2 + x**2 <= (side / 2) ** 2
    if _SHAPES[shape] == "cross":
        return (abs(y) < side / 6) | (abs(x) < side / 6)
    return np.ones((side, side), bool)
