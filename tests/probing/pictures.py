"""Sources of small pictures for the tests, and an encoder that sees their colour."""

from typing import Any

import numpy as np
from PIL import Image

from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

COLOURS = {"blue": (20, 20, 220), "green": (20, 200, 20), "red": (220, 20, 20)}


class Source(base.Source):
    """COUNT pictures of one colour each, of the three classes in turn; record 4 is damaged."""

    class_names = tuple(COLOURS)

    def __init__(self, argument: str):
        self.count = int(argument)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 4:
            raise Skip("damaged")
        colour = [*COLOURS.values()][index % 3]
        image = np.full((4, 4, 3), colour, np.uint8)
        return {"id": f"p{index}", "image": image, "label": index % 3}


class Encoder:
    """The mean colour of each picture; counts what it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, images: list[Any]) -> list[np.ndarray]:
        self.asked += len(images)
        return [np.asarray(image, np.float32).mean((0, 1)) for image in images]


def write_folder(root, counts=None, size: int = 12, seed: int = 0) -> None:
    """ROOT/CLASS/NUMBER.png: a square of the class's colour on a ground of any."""
    rng = np.random.default_rng(seed)
    for name, count in (counts or dict.fromkeys(COLOURS, 30)).items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((size, size, 3), rng.integers(0, 255, 3), np.uint8)
            pixels[2:-2, 2:-2] = np.clip(COLOURS[name] + rng.integers(-15, 15, 3), 0, 255)
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
