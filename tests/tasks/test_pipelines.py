"""What the pipelines of tasks make of examples: labels by name, targets, boxes, crops."""

import numpy as np
import pytest

from tests.tasks import official_files as files
from tests.tasks.answering import BYTES
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source
from unified_fm.tasks import glue, image_classification, nlvr2, refcoco, vqa

SMALL = {"size": 16, "patch_size": 8}


def rng():
    return np.random.default_rng(0)


def test_glue_labels_are_numbered_as_tfds_does_whatever_the_source_says():
    made = glue.Pipeline(tokenizer=BYTES, task="mnli", max_len=32)
    texts = {"premise": "It rains.", "hypothesis": "It is wet."}
    assert made(texts | {"label_name": "contradiction"}, rng())["label"] == 2
    assert made(texts | {"label": 1}, rng())["label"] == 1  # TFDS's number for neutral
    assert list(made.class_names) == ["entailment", "neutral", "contradiction"]
    for label in ({}, {"label": -1}):  # hidden
        with pytest.raises(Skip, match="no usable label"):
            made(texts | label, rng())
    with pytest.raises(Skip, match="unknown label"):
        made(texts | {"label": 3}, rng())
    unused = glue.Pipeline(tokenizer=BYTES, task="mnli", max_len=32, truth="unused")
    assert "label" not in unused(texts, rng())


def test_a_score_of_stsb_is_a_number():
    made = glue.Pipeline(tokenizer=BYTES, task="stsb", max_len=32)
    pair = {"sentence1": "A man.", "sentence2": "A car."}
    found = made(pair | {"label_name": "4.250", "label": 4.25}, rng())
    assert found["label"] == np.float32(4.25) and found["label"].dtype == np.float32
    assert made(pair | {"label": 3.0}, rng())["label"] == 3.0
    assert made.spec()["label"].dtype == np.float32


def test_one_sentence_or_two_of_the_same_length():
    one = glue.Pipeline(tokenizer=BYTES, task="cola", max_len=32)
    two = glue.Pipeline(tokenizer=BYTES, task="rte", max_len=32)
    assert set(one.spec()) == {"text", "text_mask", "label"}
    assert set(two.spec()) == {"text", "text_mask", "segments", "label"}
    with pytest.raises(ValueError, match="task is 'rta'; did you mean 'rte'"):
        glue.Pipeline(tokenizer=BYTES, task="rta")


def test_nlvr2_has_both_images_in_one_row(tmp_path):
    source = open_source(f"nlvr2:{files.write_nlvr2(tmp_path)}")
    made = nlvr2.Pipeline(tokenizer=BYTES, **SMALL)
    first, second = made(source[0], rng()), made(source[1], rng())
    assert first["images"].shape == (2, 16, 16, 3)
    assert (first["label"], second["label"]) == (1, 0)  # "True", "False"
    assert made.spec()["images"].shape == (2, 16, 16, 3)
    with pytest.raises(Skip, match="not two images"):
        made(source[0] | {"images": source[0]["images"][:1]}, rng())


@pytest.fixture
def answers(tmp_path):
    return str(files.write_json(tmp_path / "answers.json", ["yes", "2", "red", "brown"]))


def test_vqa_targets_are_the_points_of_each_answer(tmp_path, answers):
    questions, annotations = files.write_vqa(tmp_path)
    source = open_source(f"vqa:{questions}:{annotations}@{tmp_path}")
    made = vqa.Pipeline(tokenizer=BYTES, answers=answers, classes=4, **SMALL)
    found = [made(source[k], rng())["targets"].tolist() for k in range(3)]
    # Ten "yes"; seven "2" and one "two"; three "red" with four "brown", and "the red one" is none.
    wanted = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.9, 1]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert list(made.class_names) == ["yes", "2", "red", "brown"]
    genome = {"image": source[0]["image"], "question": "a?", "answers": ["the red"]}
    assert made(genome, rng())["targets"].tolist() == [0, 0, 0.5, 0]
    with pytest.raises(Skip, match="no answer of the list"):
        made(genome | {"answers": ["a dog"]}, rng())


def test_the_list_of_answers_need_not_be_there_to_know_the_shapes():
    made = vqa.Pipeline(tokenizer=BYTES, answers="not/there.json", classes=7, **SMALL)
    assert made.spec()["targets"].shape == (7,)
    assert set(made.spec()) == {"image", "text", "text_mask", "targets"}


def test_a_list_of_another_length_is_refused(answers):
    made = vqa.Pipeline(tokenizer=BYTES, answers=answers, classes=5, **SMALL)
    with pytest.raises(ValueError, match="has 4 answers, and the option classes is 5"):
        _ = made.class_names


@pytest.mark.parametrize("seed", range(6))
def test_the_box_goes_through_the_crop_with_its_expression(seed):
    image = np.zeros((30, 40, 3), np.uint8)
    image[5:15, 10:30] = 255
    example = {"image": image, "text": "a white thing", "box": [10, 5, 20, 10], "size": [40, 30]}
    made = refcoco.Pipeline(tokenizer=BYTES, size=64, patch_size=8, randaugment="none")
    found = made(example, np.random.default_rng(seed))
    x, y, w, h = 64 * found["box"]
    rows, columns = (np.flatnonzero(found["image"][..., 0].max(axis=a) > 127) for a in (1, 0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(edges, [x - w / 2, y - h / 2, x + w / 2, y + h / 2], atol=2)
    assert not found["is_image"]


def test_an_evaluation_sees_the_whole_image_and_no_box():
    example = {"image": np.zeros((30, 40, 3), np.uint8), "text": "a thing"}
    made = refcoco.Pipeline(tokenizer=BYTES, augment="none", truth="unused", **SMALL)
    assert set(made(example, rng())) == {"image", "text", "text_mask"}
    with pytest.raises(Skip, match="no usable box"):
        refcoco.Pipeline(tokenizer=BYTES, **SMALL)(example, rng())


def test_an_evaluation_of_classes_sees_the_middle_or_all():
    image = np.zeros((32, 64, 3), np.uint8)
    image[4:28, 20:44] = 255  # 24 of the shorter side of 32, in the middle
    example = {"image": image, "label": 1}
    middle = image_classification.Pipeline(augment="none", centre=0.75, **SMALL)
    assert middle(example, rng())["image"].min() == 255
    squash = image_classification.Pipeline(augment="none", fit="squash", **SMALL)
    seen = squash(example, rng())["image"][8, :, 0]
    assert (seen[0], seen[8], seen[-1]) == (0, 255, 0)
    assert squash(example, rng())["label"] == 1
