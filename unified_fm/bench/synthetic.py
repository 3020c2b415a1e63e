"""Batches drawn from their shapes, where there is neither data nor a tokenizer.

Their contents are noise, but such as the pipelines may give: texts are words, padded at the end;
what is masked is inside the text; a region's image is in its group, its box in the image, its patch
mask that of the box. So every loss is finite, and padding costs what it costs with real data.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from unified_fm.bench import flops
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import boxes
from unified_fm.models.parts import TextPart

Batch = dict[str, np.ndarray]
_SPECIAL = 5  # the first words of a vocabulary, at most: pad, unknown, first and last token


def batches(settings: Settings, shapes: Mapping[str, Any], seed: int = 0) -> dict[str, Batch]:
    """One batch of every stream, {stream: {array: numbers}}.

    Texts are about as long as `flops.typical` says, within a half.

    Args:
        settings: of the run.
        shapes: {stream: {array: with `shape` and `dtype`}} of the global batches; cached
            arrays, nested one deeper, become zeros.
        seed: of all that is drawn.
    """
    model = chosen.model(settings.model)
    pad = model.pad_id if isinstance(model, TextPart) else 0
    lengths = flops.typical(settings, shapes)
    found = {}
    for number, (name, stream) in enumerate(settings.streams.items()):
        rng = np.random.default_rng((seed, number))
        found[name] = _Drawn(
            rng=rng,
            options=flops.options(name, stream),
            groups=stream.groups or 1,
            shapes=shapes[name],
            pad=pad,
            words=model.vocab_size or 0,
            classes=model.classes or 2,
            mean_length=float(lengths[name].tokens.mean()) if name in lengths else 0.0,
        ).batch()
    return found


@dataclasses.dataclass(kw_only=True)
class _Drawn:
    """What is drawn for one stream: arrays that depend on each other, in order."""

    rng: np.random.Generator
    options: Mapping[str, Any]
    groups: int
    shapes: Mapping[str, Any]
    pad: int
    words: int
    classes: int
    mean_length: float
    made: Batch = dataclasses.field(default_factory=dict)

    def batch(self) -> Batch:
        """All arrays of `shapes`."""
        if "text" in self.shapes:
            self._texts()
        if "box" in self.shapes:
            self._regions()
        drawn: dict[str, Callable[[tuple[int, ...]], Any]] = {
            "image": lambda shape: self.rng.integers(0, 256, shape),
            "images": lambda shape: self.rng.integers(0, 256, shape),
            "patch_mask": self._patch_mask,
            "image_index": self._image_index,
            "weight": np.ones,
            "label": lambda shape: self.rng.integers(0, self.classes, shape),
            "example_id": lambda shape: np.arange(math.prod(shape)).reshape(shape),
        }
        for name, spec in self.shapes.items():
            if isinstance(spec, Mapping):
                self.made[name] = _zeros(spec)
                continue
            if name not in self.made:
                self.made[name] = drawn.get(name, np.zeros)(spec.shape)
            self.made[name] = np.asarray(self.made[name]).astype(spec.dtype)
        return {name: self.made[name] for name in self.shapes}

    def _texts(self) -> None:
        """Words between the first and the last token, then padding; some of the words masked."""
        rows, length = self.shapes["text"].shape
        mean = min(max(self.mean_length, 3.0), length)  # first and last token, and a word
        high = min(length, math.floor(1.5 * mean))
        low = max(3, math.ceil(2 * mean - high))  # as far below the mean as `high` is above it
        tokens = self.rng.integers(low, high + 1, rows)
        mask = np.arange(length) < tokens[:, None]  # bool[R L]
        ids = self.rng.integers(min(_SPECIAL, self.words - 2), self.words - 1, (rows, length))
        self.made |= {"text": np.where(mask, ids, self.pad), "text_mask": mask}
        if "masked_ids" in self.shapes:
            self._masked(ids, tokens)

    def _masked(self, ids: np.ndarray, tokens: np.ndarray) -> None:
        rows, slots = self.shapes["masked_ids"].shape
        rate = self.options.get("mask_rate", slots / ids.shape[1])
        text = self.made["text"].copy()
        positions = np.zeros((rows, slots), np.int32)
        words = np.full((rows, slots), -100, np.int32)
        for row, length in enumerate(tokens):
            inside = self.rng.permutation(np.arange(1, length - 1))  # not the first nor the last
            chosen_ones = np.sort(inside[: min(slots, max(1, round(rate * length)))])
            positions[row, : len(chosen_ones)] = chosen_ones
            words[row, : len(chosen_ones)] = ids[row, chosen_ones]
            text[row, chosen_ones] = self.words - 1  # as RoBERTa's mask
        self.made |= {"text_masked": text, "masked_positions": positions, "masked_ids": words}

    def _regions(self) -> None:
        """Boxes inside the image, as centre and size, and the patches that they touch."""
        rows = self.shapes["box"].shape[0]
        size = self.rng.uniform(0.1, 0.6, (rows, 2))
        low = self.rng.uniform(0, 1, (rows, 2)) * (1 - size)
        corners = np.concatenate([low, low + size], axis=1)
        self.made["box"] = boxes.to_centre(corners)
        if "region_mask" in self.shapes:
            grid = math.isqrt(self.shapes["region_mask"].shape[1])
            self.made["region_mask"] = boxes.touched_patches(corners, grid)

    def _patch_mask(self, shape: tuple[int, ...]) -> np.ndarray:
        """As many patches of each image as are hidden there."""
        hidden = self.options.get("num_masked", round(0.4 * shape[-1]))
        order = self.rng.random(shape).argsort(-1).argsort(-1)
        return order < hidden

    def _image_index(self, shape: tuple[int, ...]) -> np.ndarray:
        """Places in the group; every image has about as many rows as any other."""
        rows, images = (n // self.groups for n in (shape[0], self.shapes["image"].shape[0]))
        return np.tile(np.arange(rows) * images // rows, self.groups)


def _zeros(specs: Mapping[str, Any]) -> Any:
    return {
        name: _zeros(spec) if isinstance(spec, Mapping) else np.zeros(spec.shape, spec.dtype)
        for name, spec in specs.items()
    }
