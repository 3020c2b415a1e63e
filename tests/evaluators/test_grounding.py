import json

import numpy as np
import pytest
from PIL import Image

from tests.evaluators import worlds
from unified_fm.data import tokenizer
from unified_fm.evaluators import grounding


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


def test_the_error_is_over_images_and_not_over_their_regions():
    """Twenty boxes, alike within an image: as sure as five numbers, not as twenty."""
    evaluator = worlds.evaluator(grounding, "eight", worlds.make_tokenizer())
    overlap = np.repeat([0.9, 0.1, 0.8, 0.3, 0.6], 4)
    boxes = np.tile([0.5, 0.5, 0.4, 0.4], (20, 1))

    def error(images):
        scored = evaluator._scored(overlap, boxes, images)
        mean, found = grounding.metrics_of(scored, scored.report())
        assert (mean.value, found.value) == (pytest.approx(0.54), pytest.approx(0.6))
        return mean.error

    assert error(np.repeat(np.arange(5), 4)) == pytest.approx(2 * error(np.arange(20)), rel=0.05)


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
