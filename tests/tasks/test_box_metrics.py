"""Overlap of boxes, the best constant box, and the accuracy of RefCOCO."""

import itertools

import numpy as np
import pytest

from unified_fm.tasks._metrics import boxes, refcoco


def share_above_half(overlap, axis=None):
    return np.mean(overlap > 0.5, axis=axis)


def test_iou_of_literal_boxes():
    half = [0.5, 0.5, 1.0, 0.5]
    cases = [
        (half, half, 1.0),
        ([0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0], 0.0),  # they only touch
        ([0.5, 0.5, 1.0, 1.0], half, 0.5),
        ([0.3, 0.3, 0.2, 0.2], [0.4, 0.3, 0.2, 0.2], 1 / 3),
        ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], 0.0),  # no area
    ]
    for a, b, expected in cases:
        assert boxes.iou_of_centres(np.array(a), np.array(b)) == pytest.approx(expected)


def test_iou_equals_counting_pixels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = []
        for _ in range(2):
            x, y, w, h = rng.integers(0, 10), rng.integers(0, 10), *rng.integers(1, 10, 2)
            pixels = np.zeros((20, 20), bool)
            pixels[y : y + h, x : x + w] = True
            drawn.append((np.array([x + w / 2, y + h / 2, w, h]) / 20, pixels))
        (a, first), (b, second) = drawn
        expected = (first & second).sum() / (first | second).sum()
        assert boxes.iou_of_centres(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [np.mean, share_above_half])
def test_best_constant_box_is_as_good_as_a_grid_search(measure):
    rng = np.random.default_rng(1)
    size = rng.uniform(0.2, 0.5, (30, 2))
    targets = np.concatenate([rng.uniform(size / 2, 1 - size / 2), size], axis=1)
    grid = np.array(list(itertools.product(np.linspace(0.1, 0.9, 17), repeat=4)))
    best = measure(boxes.iou_of_centres(grid[:, None], targets[None]), axis=-1).max()
    box = boxes.best_constant_box(targets, measure)
    assert measure(boxes.iou_of_centres(box[None], targets), axis=-1) >= best - 1e-9


def test_one_target_is_its_own_best_box():
    target = np.array([[0.3, 0.6, 0.2, 0.4]])
    box = boxes.best_constant_box(target, np.mean)
    np.testing.assert_allclose(box, target[0])


def test_the_conventions_differ_by_a_pixel():
    """Two boxes of 10 pixels, the second shifted by 4: REFER counts both borders of an overlap."""
    a, b = np.array([0.0, 0.0, 10.0, 10.0]), np.array([4.0, 0.0, 10.0, 10.0])
    assert boxes.iou(a, b) == pytest.approx(60 / 140)
    # x from 4 to 9 are six columns, and y from 0 to 9 ten rows.
    assert boxes.iou(a, b, "pixel") == pytest.approx(60 / 140)
    a, b = np.array([0.0, 0.0, 10.0, 10.0]), np.array([9.5, 0.0, 10.0, 10.0])
    assert boxes.iou(a, b) == pytest.approx(5 / 195)
    assert boxes.iou(a, b, "pixel") == 0  # 9.5 is not below 9
    with pytest.raises(ValueError, match=r"convention is 'pixels'; did you mean 'pixel'\?"):
        boxes.iou(a, b, "pixels")


def refer_iou(one, other):
    """REFER's, number by number."""
    x1, y1 = max(one[0], other[0]), max(one[1], other[1])
    x2 = min(one[0] + one[2] - 1, other[0] + other[2] - 1)
    y2 = min(one[1] + one[3] - 1, other[1] + other[3] - 1)
    inter = (x2 - x1 + 1) * (y2 - y1 + 1) if x1 < x2 and y1 < y2 else 0
    return inter / (one[2] * one[3] + other[2] * other[3] - inter)


def test_both_conventions_of_random_boxes():
    rng = np.random.default_rng(0)
    a, b = np.concatenate([rng.uniform(0, 9, (2, 200, 2)), rng.uniform(1, 9, (2, 200, 2))], axis=-1)
    expected = [refer_iou(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(boxes.iou(a, b, "pixel"), expected)
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    expected = inter / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - inter)
    np.testing.assert_allclose(boxes.iou(a, b), expected)


def test_an_overlap_of_exactly_half_counts():
    found = refcoco.measures(
        np.array([[0, 0, 10, 5], [0, 0, 10, 4.9], [50, 50, 10, 10]]),
        np.full((3, 4), [0, 0, 10, 10]),
    )
    assert found["accuracy"].value == 1 / 3
    np.testing.assert_allclose(found["mean_iou"].per_example, [0.5, 0.49, 0])
    with pytest.raises(ValueError, match="1 boxes are not four finite numbers; the first is 0"):
        refcoco.measures(np.array([[np.nan, 0, 1, 1]]), np.array([[0, 0, 1, 1]]))


def test_a_relative_box_is_scaled_by_its_image_and_not_clipped():
    found = refcoco.from_unit(
        np.array([[0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.4, 1]]), [640, 100], [480, 50]
    )
    np.testing.assert_allclose(found, [[160, 120, 320, 240], [70, 0, 40, 50]])


def test_chance_of_one_object_everywhere_is_all():
    truth, sizes = np.array([[10, 10, 20, 20], [20, 40, 40, 80]]), np.array([[100, 50], [200, 200]])
    assert refcoco.chance(truth, sizes)["accuracy"] == 1.0
