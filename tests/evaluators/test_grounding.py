import itertools
import json

import numpy as np
import pytest
from PIL import Image

from tests.evaluators import worlds
from unified_fm.data import tokenizer
from unified_fm.evaluators import grounding


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
        assert grounding.iou(np.array(a), np.array(b)) == pytest.approx(expected)


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
        assert grounding.iou(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [np.mean, grounding._share_above(0.5)])
def test_best_constant_box_is_as_good_as_a_grid_search(measure):
    rng = np.random.default_rng(1)
    size = rng.uniform(0.2, 0.5, (30, 2))
    targets = np.concatenate([rng.uniform(size / 2, 1 - size / 2), size], axis=1)
    grid = np.array(list(itertools.product(np.linspace(0.1, 0.9, 17), repeat=4)))
    best = measure(grounding.iou(grid[:, None], targets[None]), axis=-1).max()
    box = grounding.best_constant_box(targets, measure)
    assert measure(grounding.iou(box[None], targets), axis=-1) >= best - 1e-9


def test_one_target_is_its_own_best_box():
    target = np.array([[0.3, 0.6, 0.2, 0.4]])
    box = grounding.best_constant_box(target, np.mean)
    np.testing.assert_allclose(box, target[0])


def test_a_perfect_net_finds_every_box_and_chance_is_measured():
    tokenizer = worlds.make_tokenizer()
    evaluator = worlds.evaluator(grounding, "eight", tokenizer, shown=2)
    apply = worlds.Apply(worlds.Oracle(tokenizer))
    mean, found = evaluator.run(apply, {})
    assert (mean.value, found.value) == (1.0, 1.0)
    assert 0.2 < mean.chance < 0.7 and 0.2 < found.chance < 1.0
    assert apply.compiled == 1
    assert [e.phrase for e in evaluator.examples] == ["a red square", "a green square"]
    # The second square is at x 1, y 1 with side 3, in an image of 8 pixels.
    np.testing.assert_allclose(evaluator.examples[1].target, [2.5 / 8, 2.5 / 8, 3 / 8, 3 / 8])


def test_records_without_regions_are_refused():
    tokenizer = worlds.make_tokenizer()
    evaluator = worlds.evaluator(grounding, "no_regions", tokenizer)
    with pytest.raises(ValueError, match="regions"):
        list(evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {}))


def test_A4_boxes_are_read_as_the_options_say_and_bad_ones_left_out(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right: the stored top is the upright right side
    Image.new("RGB", (40, 20)).save(tmp_path / "1.png", exif=exif)
    found = [{"box": box, "text": "a thing"} for box in ([0, 0, 40, 5], [4, 4, 4, 9])]
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"image": "1.png", "text": "things", "regions": found})
    )
    evaluator = grounding.Evaluator(
        source=f"jsonl:{tmp_path}/x.jsonl",
        options={"size": 16, "patch_size": 8, "max_len": 8},
        tokenizer=tokenizer.load("bytes"),
        box_format="xyxy",
        exif="stored",
    )
    _, rows, phrases = evaluator._regions()
    assert phrases == ["a thing"]
    assert rows["target"].tolist() == [[0.875, 0.5, 0.25, 1.0]]
    assert "1  (part) box of zero or negative size" in caplog.text
