"""An image, its boxes and their texts: the regions stream (X-FM 2.5)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from unified_fm import choices
from unified_fm.data import boxes, images, packing, specs
from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions, example_id
from unified_fm.data.skips import Parts, Skip
from unified_fm.data.specs import ArraySpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions, boxes.BoxOptions):
    """Gives `image u8[H W 3]` and, per text of the image, one row of `text i32[r L]`, `text_mask`,
    `text_masked`, `masked_positions`, `masked_ids`, `region_mask bool[r N]` (the patches that the
    box touches), `box f32[r 4]` (cx, cy, w, h in 0..1), `is_image bool[r]` (the caption of the
    whole image, which comes first), `example_id i32[r]`. `collate` packs the rows of several
    images into a batch of fixed size, with `image_index i32` and `weight f32`.

    The crop contains one random box; a box of which half or more is cut away is left out. An
    unusable box (not four numbers, outside its image, below one pixel) is dropped, counted, and
    named in the log, and the image is kept; if more than `max_skip` of all boxes and texts are
    dropped, the run stops. `parts` is this account.

    Attributes:
        max_regions: texts per image, the whole image's caption included.
        caption: "first" makes the whole image's caption a row too, as published; "none" does not.
        box_format, exif: how boxes are written, and in which image; see `boxes.BoxOptions`.
    """

    packed: ClassVar[bool] = True

    num_masked: int = 0
    randaugment: str = "B"
    max_regions: int = 5
    caption: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        boxes.BoxOptions.__post_init__(self)
        choices.check("caption", self.caption, ("first", "none"))
        if self.max_regions < 1:
            raise ValueError(f"max_regions is {self.max_regions}; at least 1 is needed")
        if self.randaugment == "A":
            raise ValueError('randaugment "A" moves the image under its boxes; use "B" or "none"')

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Raises `Skip` if there is no usable image, or no usable text or box in it."""
        picture = self.open_picture(example)
        parts = Parts()
        corners, texts = self._regions(example, picture, parts, rng)
        caption = self._caption(example, parts, rng)
        if not texts and caption is None:
            found = ", ".join(parts.dropped) or "no region and no caption"
            raise Skip("no usable region", found, parts)

        order = np.arange(len(texts)) if self.augment == "none" else rng.permutation(len(texts))
        corners, texts = corners[order], [texts[k] for k in order]
        crop = (0, 0, picture.height, picture.width)
        if texts and self.augment != "none":
            crop = boxes.crop_around(corners[0], picture.height, picture.width, rng)
        mirrored = self.draw_flip(rng, [*texts, caption or ""])
        unit, kept = boxes.through_crop(corners, crop, mirrored=mirrored)
        unit, texts = unit[kept], [text for text, keep in zip(texts, kept, strict=True) if keep]
        if caption is not None:
            unit, texts = np.concatenate([[[0.0, 0, 1, 1]], unit]), [caption, *texts]
        unit, texts = unit[: self.max_regions], texts[: self.max_regions]

        image = self.cut(picture, crop)
        image = self.coloured(images.flip(image) if mirrored else image, rng)
        rows = self._rows(texts, unit, rng, parts)
        rows["is_image"] = np.arange(len(texts)) < (caption is not None)
        rows["example_id"] = np.full(len(texts), example_id(example))
        arrays = {"image": image, "rows": rows, "priority": rng.random(len(texts))}
        return arrays | {"parts": parts} | self.patch_arrays(rng)

    def spec(self) -> dict[str, ArraySpec]:
        """As `Pipeline.spec`; the images have an axis of their own."""
        batch = self.collate([None], rows=1, groups=1)
        of_images = self._blank_image().keys()
        return {
            name: specs.of_one(array[0], "images" if name in of_images else "rows")
            for name, array in batch.items()
        }

    def collate(
        self,
        examples: list[dict[str, Any] | None],
        *,
        rows: int,
        groups: int,
    ) -> Arrays:
        """Packs images and their rows into one batch; see `packing.pack`."""
        return packing.pack(
            examples,
            rows=rows,
            groups=groups,
            blank=self._blank_rows(),
            blank_image=self._blank_image(),
        )

    def _blank_rows(self) -> Arrays:
        """One padded row, [1 ...] per array: no word is masked in it."""
        rng = np.random.default_rng(0)  # nothing random is left in a padded row
        blank = self._rows([""], np.array([[0.0, 0, 1, 1]]), rng, Parts())
        blank["is_image"] = np.ones(1, bool)
        blank["example_id"] = np.full(1, -1, np.int32)
        if self.mask_rate:
            blank |= {
                "text_masked": blank["text"],
                "masked_positions": np.zeros_like(blank["masked_positions"]),
                "masked_ids": np.full_like(blank["masked_ids"], -100),
            }
        return blank

    def _blank_image(self) -> Arrays:
        """The arrays of an image slot that stays empty."""
        blank = {"image": np.zeros((self.size, self.size, 3), np.uint8)}
        return blank | ({"patch_mask": np.zeros(self.grid**2, bool)} if self.num_masked else {})

    def _regions(
        self,
        example: dict[str, Any],
        picture: images.Picture,
        parts: Parts,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, list[str]]:
        """Usable boxes f64[r 4] (x0, y0, x1, y1 in pixels) and their texts."""
        corners, texts = [], []
        found = example.get("regions")
        for region in found if isinstance(found, list | tuple) else ():
            parts.seen += 1
            if not isinstance(region, dict):
                parts.drop("region of a wrong type")
                continue
            box, problem = self.read_box(region.get("box"), picture, parts)
            if box is None:
                parts.drop(problem)
                continue
            try:
                text = self.pick_text(_with_attribute(region, rng), rng)
            except Skip as skip:
                parts.drop(f"region with {skip.reason}")
                continue
            corners.append(box)
            texts.append(text)
        return np.array(corners, np.float64).reshape(-1, 4), texts

    def _caption(
        self, example: dict[str, Any], parts: Parts, rng: np.random.Generator
    ) -> str | None:
        if self.caption == "none" or example.get("text") in (None, "", []):
            return None
        parts.seen += 1
        try:
            return self.pick_text(example["text"], rng)
        except Skip as skip:
            parts.drop(f"image with {skip.reason}")
            return None

    def _rows(
        self, texts: list[str], unit: np.ndarray, rng: np.random.Generator, parts: Parts
    ) -> Arrays:
        each = [self.text_arrays(text, rng, parts=parts) for text in texts]
        rows = {key: np.stack([arrays[key] for arrays in each]) for key in each[0]}
        rows["region_mask"] = boxes.touched_patches(unit, self.grid)
        rows["box"] = boxes.to_centre(unit)
        return rows


def _with_attribute(region: dict[str, Any], rng: np.random.Generator) -> Any:
    """The region's text, with a random one of its attributes before it ("red" + "car")."""
    text, attributes = region.get("text"), region.get("attributes")
    if isinstance(attributes, str):
        attributes = [attributes]
    if not attributes or not isinstance(attributes, list | tuple):
        return text
    if isinstance(text, list | tuple) and text:
        text = text[rng.integers(len(text))]
    attribute = attributes[rng.integers(len(attributes))]
    if not isinstance(text, str) or not isinstance(attribute, str):
        return text
    return f"{attribute} {text}"
