"""Rows of several images in a batch of fixed shape, in groups between which it can be cut."""

from typing import Any

import numpy as np


def pack(
    examples: list[dict[str, Any] | None],
    *,
    rows: int,
    groups: int,
    blank: dict[str, np.ndarray],
    blank_image: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Packs the images and rows of one process.

    The images are divided into equal groups in order; the rows of a group refer only to its images,
    so that a batch can be cut between groups. Too many rows: those with the lowest `priority`,
    drawn with the example, stay. Too few: padded rows with weight 0.

    Args:
        examples: as `regions.Pipeline` gives them; None = an image slot that stays empty.
        rows: rows of all groups together.
        groups: of this process.
        blank: one padded row, [1 ...] per key.
        blank_image: the arrays of an image slot that stays empty: `image u8[H W 3]` and whatever
            else the examples have per image.

    Returns:
        The arrays of images [I ...], the row arrays [rows ...], `image_index i32[rows]`, the place
        of each row's image in its group, `weight f32[rows]`.
    """
    images = len(examples)
    if images % groups or rows % groups:
        raise ValueError(f"{images} images and {rows} rows do not divide into {groups} groups")
    size = images // groups
    parts = [
        _pack(examples[start : start + size], rows=rows // groups, blank=blank)
        for start in range(0, images, size)
    ]
    batch = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for key, empty in blank_image.items():
        batch[key] = np.stack([empty if example is None else example[key] for example in examples])
    return batch


def _pack(
    examples: list[dict[str, Any] | None],
    *,
    rows: int,
    blank: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    present = [(k, e) for k, e in enumerate(examples) if e is not None]
    index = np.concatenate(
        [np.full(len(e["priority"]), image) for image, e in present] or [np.zeros(0)]
    ).astype(np.int32)
    priority = np.concatenate([e["priority"] for _, e in present] or [np.zeros(0)])
    kept = np.sort(np.argsort(priority, kind="stable")[:rows])
    missing = rows - len(kept)

    out = {}
    for key, padding in blank.items():
        found = np.concatenate([e["rows"][key] for _, e in present] or [padding[:0]])[kept]
        out[key] = np.concatenate([found, np.repeat(padding, missing, axis=0)])
    out["image_index"] = np.concatenate([index[kept], np.zeros(missing, np.int32)])
    out["weight"] = (np.arange(rows) < len(kept)).astype(np.float32)
    return out
