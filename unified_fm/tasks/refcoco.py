"""Referring expressions: the box of what an expression means (X-FM section 4.4).

    learnt = dict(refcoco=1.0)
    c.streams = dict(task=stream("refcoco", "refcoco:FILE:train@IMAGES", 20, learnt))

The objective is `bbox` over the whole image, whose gradient here reaches the language encoder.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data import boxes, images
from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions
from unified_fm.data.skips import Skip
from unified_fm.data.truth import TruthOptions
from unified_fm.evaluators.predicted import Predicted
from unified_fm.objectives import bbox
from unified_fm.tasks._metrics import refcoco as metrics
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._scoring.scored import Scored

CONVENTIONS = ("continuous", "pixel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions, TruthOptions):
    """Gives `image u8[H W 3]`, `text i32[L]`, `text_mask bool[L]`, `box f32[4]` (cx, cy, w, h in
    0..1) and `is_image bool` (False), one expression in a row.

    In training the crop contains the box, and the picture is mirrored unless the text says left or
    right. A crop may change who is "the left one": published all the same. Where no truth is looked
    for the whole image is seen.
    """

    size: int = 384
    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: str = "careful"
    randaugment: str = "B"
    num_masked: int = 0
    max_len: int = 40
    max_words: int = 40
    mask_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.randaugment == "A":
            raise ValueError('randaugment "A" moves the image under its boxes; use "B" or "none"')

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` without a usable image, expression or box."""
        text = self.pick_text(example.get("text"), rng)
        picture = self.open_picture(example)
        whole = (0, 0, picture.height, picture.width)
        if self.predicts:
            return {"image": self.cut(picture, whole)} | self.text_arrays(text, rng)
        box, problem = boxes.parse(example.get("box"), picture.height, picture.width)
        if box is None:
            raise Skip("no usable box", problem)
        crop = whole
        if self.augment != "none":
            crop = boxes.crop_around(box, picture.height, picture.width, rng)
        mirrored = self.draw_flip(rng, [text])
        unit, _ = boxes.through_crop(box[None], crop, mirrored=mirrored)
        image = self.cut(picture, crop)
        image = self.coloured(images.flip(image) if mirrored else image, rng)
        target = {"box": boxes.to_centre(unit)[0], "is_image": np.bool_(False)}
        return {"image": image} | self.text_arrays(text, rng) | target

    def sample(self) -> dict[str, Any]:
        """As `Pipeline.sample`, with a box."""
        return super().sample() | {"box": [0, 0, 8, 8]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(bbox.Objective):
    """As `bbox`, but nothing is stopped: the gradient reaches all three encoders."""

    stop_text_gradient: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Predicted):
    """The share of expressions whose box has an IoU of at least 0.5, and the mean IoU, by split.

    Attributes:
        convention: "continuous" (MDETR) or "pixel" (REFER, X-VLM, X-FM).
    """

    convention: str = "continuous"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("convention", self.convention, CONVENTIONS)

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """The box x, y, width, height in pixels of the image, not clipped."""
        del source
        record = example.record
        width, height = size = _size(record)
        box = metrics.from_unit(found["box"][None], [width], [height])[0]
        prediction = [float(x) for x in box] if np.isfinite(box).all() else None
        more = {"size": size} | {key: record[key] for key in ("split",) if key in record}
        return Line(record["id"], prediction, record.get("box"), more | of_lines.image_of(record))

    def score(self, lines: Sequence[Line]) -> Scored:
        """By split, where there are any; what is not finite is a box without a size."""
        return of_lines.refcoco(lines, self.convention)


def _size(record: Mapping[str, Any]) -> list[int]:
    """Width and height of the image that boxes are in: as the record has them, else its own."""
    found = record.get("size")
    if isinstance(found, list | tuple) and len(found) == 2:
        return list(found)
    picture = images.Picture(record["image"], max_pixels=images.MOST_PIXELS)
    return [picture.width, picture.height]
