"""What was made faster gives what the plain way of writing it gives, to the last bit.

A run that goes on, and every golden value, depends on it: the same numbers are drawn in the same
order, and the same pixels and masks come of them.
"""

import math

import cv2
import numpy as np
import pytest

from unified_fm.data import boxes, images, masking, randaugment, tokenizer
from unified_fm.data.order import example_rng

PICTURE = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)


def block_mask(grid, num_masked, rng):
    least, left = max(1, round(16 * grid * grid / 196)), num_masked
    mask = np.zeros((grid, grid), bool)
    while left:
        for area, aspect, top, start in rng.random((10, 4)):
            area, aspect = least + area * (left - least), 0.3 ** (1 - 2 * aspect)
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < height < grid and 0 < width < grid:
                y, x = int(top * (grid - height + 1)), int(start * (grid - width + 1))
                block = mask[y : y + height, x : x + width]
                if 0 < (new := int((~block).sum())) <= left:
                    block[:], left = True, left - new
                    break
        else:
            break
    flat = mask.reshape(-1)
    flat[rng.choice(np.flatnonzero(~flat), left, replace=False)] = True
    return flat


@pytest.mark.parametrize(("grid", "hidden"), [(14, 75), (4, 6), (9, 30), (30, 345), (3, 9)])
def test_block_masks(grid, hidden):
    for seed in range(40):
        rng, other = example_rng(0, 0, seed), example_rng(0, 0, seed)
        found = masking.block_patch_mask(grid, hidden, rng)
        assert found.dtype == bool and (found == block_mask(grid, hidden, other)).all()
        assert rng.random() == other.random()  # as many numbers were drawn


def crop_box(height, width, rng, scale):
    area = height * width * rng.uniform(*scale, 10)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 10))
    widths = np.rint(np.sqrt(area * aspect)).astype(int)
    heights = np.rint(np.sqrt(area / aspect)).astype(int)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    h, w = int(heights[fits.argmax()]), int(widths[fits.argmax()])
    return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w


def test_crop_boxes():
    for seed in range(400):
        found = images.random_crop_box(375, 500, example_rng(0, 1, seed), scale=(0.2, 1.0))
        assert found == crop_box(375, 500, example_rng(0, 1, seed), (0.2, 1.0))


@pytest.mark.parametrize(
    ("shift", "matrix"),
    [
        (randaugment.translate_x, lambda sign: [[1, 0, 7 * sign], [0, 1, 0]]),
        (randaugment.translate_y, lambda sign: [[1, 0, 0], [0, 1, 7 * sign]]),
        (randaugment.shear_x, lambda sign: [[1, 0.3 * 0.7 * sign, 0], [0, 1, 0]]),
        (randaugment.shear_y, lambda sign: [[1, 0, 0], [0.3 * 0.7 * sign, 1, 0]]),
        (
            randaugment.rotate,
            lambda sign: cv2.getRotationMatrix2D((45 / 2, 31 / 2), 30 * 0.7 * sign, 1),
        ),
    ],
)
def test_geometry_is_a_warp_of_three_channels(shift, matrix):
    for seed in range(4):
        sign = 1 if np.random.default_rng(seed).random() < 0.5 else -1
        size, grey = (45, 31), (128, 128, 128)
        warped = cv2.warpAffine(PICTURE, np.float32(matrix(sign)), size, borderValue=grey)
        assert (shift(PICTURE, np.random.default_rng(seed)) == warped).all()


def test_colours_are_tables():
    values = np.arange(256, dtype=np.uint8)
    ramp = np.broadcast_to(values[None, :, None], (9, 256, 3)).copy()
    table = np.clip(np.arange(256) * (0.1 + 1.8 * 0.7), 0, 255).astype(np.uint8)
    rng = np.random.default_rng(0)
    assert (randaugment.brightness(ramp, rng) == table[ramp]).all()
    for low, high in ((3, 3), (0, 255), (17, 201), (100, 103)):
        narrow = np.clip(ramp, low, high)
        scale = 255.0 / (high - low) if high > low else 1.0
        stretched = np.clip(np.arange(256.0) * scale + -low * scale, 0, 255).astype(np.uint8)
        expected = narrow if low == high else stretched[narrow]
        assert (randaugment.autocontrast(narrow, rng) == expected).all()


@pytest.mark.parametrize("special_tokens", ["never", "official"])
def test_masked_tokens(special_tokens):
    words = tokenizer.load("bytes")
    encoded = words.encode("a dog sleeps on a red sofa", 30)
    masker = masking.TokenMasker(rate=0.5, max_masked=15, special_tokens=special_tokens)
    for seed in range(20):
        found = masker(encoded, words, np.random.default_rng(seed))
        chosen = found["masked_positions"][found["masked_ids"] != -100]
        rng, ids = np.random.default_rng(seed), encoded.ids[chosen]
        masking._whole_words(encoded, min(15, round(0.5 * encoded.length)), 15, rng)
        fate = rng.random(len(ids))
        if special_tokens == "never":
            drawn = words.normal_ids[rng.integers(len(words.normal_ids), size=len(ids))]
        else:
            drawn = rng.integers(words.vocab_size, size=len(ids))
        expected = encoded.ids.copy()
        expected[chosen] = np.where(fate < 0.8, words.mask_id, np.where(fate < 0.9, drawn, ids))
        assert (found["text_masked"] == expected).all() and found["text_masked"].dtype == np.int32


def box_read(values, height, width, box_format, orientation):
    """Corners in the upright image, or what is wrong; the clipping value by value."""
    if orientation in (5, 6, 7, 8):
        height, width = width, height
    if not np.isfinite(values).all():
        return "box has NaN or infinity"
    corners = boxes.corners_of(values, box_format, height, width)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return "box of zero or negative size"
    limits = [width, height] * 2
    clipped = [min(max(v, 0.0), float(limit)) for v, limit in zip(corners, limits, strict=True)]
    for value, inside, limit in zip(corners, clipped, limits, strict=True):
        if abs(value - inside) > max(2.0, 0.02 * limit):
            return "box outside its image"
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return "box outside its image"
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < 1 - 1e-6:
        return "box below one pixel"
    return boxes._upright(clipped, orientation, height, width)


def box_advices(values, height, width, box_format, frame, orientation):
    """What else it would fit, each time read as a whole."""
    turned = {"stored": orientation, "upright": 1}
    other = "upright" if frame == "stored" else "stored"
    ways = [(kind, frame, kind) for kind in ("unit", "xyxy", "xywh") if kind != box_format]
    ways.append((box_format, other, other))
    fractions = max(values) <= 1 and min(values) >= 0
    return [
        boxes._ADVICE[advice]
        for kind, seen, advice in ways
        if (advice == other or (kind == "unit") == fractions)
        and not isinstance(box_read(values, height, width, kind, turned[seen]), str)
    ]


@pytest.mark.parametrize("box_format", boxes.FORMATS)
def test_boxes_and_what_they_would_fit(box_format):
    rng = np.random.default_rng(len(box_format))
    edges = [-10, -2, -1.5, 0, 0.5, 1, 1.5, 38, 40, 42, 42.5, 58, 60, 62, 63, np.nan, np.inf]
    edges += [1e308, -1e308]  # times the width they are infinite
    met = set()
    for turn in range(3000):
        values = rng.uniform(-5, 65, 4) if turn % 3 else rng.choice(edges, 4)
        values = (values / (1 if turn % 2 else 64)).tolist()
        orientation, frame = int(rng.integers(1, 9)), boxes.FRAMES[turn // 2 % 2]
        found, problem = boxes.parse(values, 40, 60, box_format=box_format, orientation=orientation)
        expected = box_read(values, 40, 60, box_format, orientation)
        assert (problem or found.tolist()) == expected
        how = {"box_format": box_format, "frame": frame, "orientation": orientation}
        seen = orientation if frame == "stored" else 1
        fits = not isinstance(box_read(values, 40, 60, box_format, seen), str)
        advices = boxes.mistakes(values, 40, 60, **how, fits=fits)
        assert advices == box_advices(values, 40, 60, **how)
        met |= {problem, *advices}
    assert len(met) == 5 + 4  # every problem and none; two other formats, both frames
