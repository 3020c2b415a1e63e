"""Trivial baselines: what each says on examples that can be worked out by hand."""

import itertools
import sys

import numpy as np
import pytest

from unified_fm.demo import composed_nlvr2, composed_vqa, corpus, stage
from unified_fm.tasks._baselines import (
    answers,
    constant_box,
    guesses,
    neighbours,
    pixels,
    words,
)
from unified_fm.tasks._baselines.base import NotInstalled
from unified_fm.tasks._metrics import bootstrap, classification, vqa


def texts(*pairs):
    return [{"text": text, "label": label} for text, label in pairs]


def plain(colour, size=8):
    return np.full((size, size, 3), colour, np.uint8)


def test_guesses():
    train = [{"label": 2}, {"label": 0}, {"label": 2}]
    assert guesses.majority(train, [{}, {}]) == [2, 2]
    assert guesses.mean(train, [{}]) == [pytest.approx(4 / 3)]


def test_words_tell_classes_and_scores():
    train = texts(("good fun", 1), ("a good film", 1), ("bad", 0), ("a bad film", 0)) * 3
    test = [{"text": "good"}, {"text": "bad"}, {"text": "bad film"}]
    assert words.tfidf_classes(train, test) == [1, 0, 0]
    scores = words.tfidf_scores(train, test)
    assert scores[0] > 0.5 > scores[1]


def test_one_class_in_training_is_given_to_all():
    assert words.tfidf_classes(texts(("fine film", 3)), [{"text": "odd"}] * 2) == [3, 3]


def pair(first, second, label):
    return {"text": first, "second": second, "label": label}


def test_shared_words_are_compared_with_the_best_threshold_of_training():
    train = [
        pair("a red cup", "the red cup fell", 1),  # 2 of 3
        pair("a dog", "A dog! It ran", 1),  # 2 of 2
        pair("a cat", "birds sing well", 0),  # 0 of 2
        pair("the sea", "the old house", 0),  # 1 of 2
    ]
    assert words.shared(train).tolist() == pytest.approx([2 / 3, 1, 0, 1 / 2])
    test = [pair("one two three", "one two four five", 0), pair("one two", "two three four", 1)]
    assert words.overlap(train, test) == [1, 0]  # 2 of 3 reaches 2 / 3, 1 of 2 does not
    sentences = [{"sentences": ["a dog", "a dog"], "label": 1}]
    assert words.shared(sentences).tolist() == [1]


def test_pictures_are_told_by_pixels_and_by_colours():
    half = plain(0)
    half[:, 4:] = 255
    other = np.ascontiguousarray(half[:, ::-1])
    train = [{"image": half, "label": 0}, {"image": other, "label": 1}] * 4
    test = [{"image": other}, {"image": half}]
    assert pixels.pixel_classes(train, test) == [1, 0]
    assert np.array_equal(*pixels.histograms(test))  # the same colours, in other places
    train = [
        {"image": plain([200, 20, 20]), "label": 0},
        {"image": plain([20, 20, 200]), "label": 1},
    ]
    assert pixels.colour_classes(train * 4, [{"image": plain([210, 30, 25], 16)}]) == [0]


def asked(question, *said, image=None):
    return {"question": question, "answers": list(said), "image": image}


def test_the_most_frequent_answer_to_the_question_or_to_one_that_begins_like_it():
    train = [
        asked("is it red?", "yes"),
        asked("is it red?", "no", "no", "yes"),
        asked("is it red?", "no"),
        asked("what is on the box?", "a cat"),
        asked("what is on the bed?", "a dog"),
        asked("what is on the bed?", "a dog"),
        asked("how many?", "2"),
    ]
    test = ["Is it red?", "what is on the roof?", "is anything here?", "why?"]
    found = answers.question_only(train, [{"question": question} for question in test])
    assert found == ["no", "a dog", "no", "no"]  # "why?" begins like nothing: the most frequent


def test_the_picture_alone_gives_an_answer():
    red, blue = plain([220, 10, 10]), plain([10, 10, 220])
    train = [asked("which colour?", "red", image=red), asked("which?", "blue", image=blue)] * 4
    assert answers.image_only(train, [{"image": blue}]) == ["blue"]
    assert answers.image_only_pixels(train, [{"image": red}]) == ["red"]


def test_the_best_constant_box_is_scaled_to_each_picture():
    train = [{"box": [10, 20, 30, 10], "size": [100, 50]}] * 5
    test = [{"size": [100, 50]}, {"size": [200, 200]}]
    first, second = constant_box.constant_box(train, test)
    overlap = 0.9
    assert iou(first, [10, 20, 30, 10]) > overlap and iou(second, [20, 80, 60, 40]) > overlap


def iou(a, b):
    from unified_fm.tasks._metrics import boxes

    return float(boxes.iou(np.array(a), np.array(b)))


def test_captions_are_those_of_the_nearest_picture():
    train = [
        {"id": 1, "image": plain(10), "text": ["a dark thing", "a black thing"]},
        {"id": 2, "image": plain(240), "text": ["a light thing", "a white thing"]},
    ]
    test = [
        {"id": 3, "image": plain(230), "text": ["something white"]},
        {"id": 4, "image": plain(5), "text": ["something black", "a dark spot"]},
    ]
    assert neighbours.nearest_caption(train, test) == ["a light thing", "a dark thing"]
    scores = neighbours.retrieval_scores(train, test)
    assert scores.shape == (2, 3)
    assert scores[0].argmax() == 0 and scores[1].argmax() in (1, 2)


def test_without_scikit_learn_it_is_said(monkeypatch):
    for name in ("sklearn.linear_model", "sklearn.feature_extraction.text"):
        monkeypatch.setitem(sys.modules, name, None)
    for baseline in (words.tfidf_classes, words.tfidf_scores):
        with pytest.raises(NotInstalled, match=r"needs scikit-learn, .*: pip install"):
            baseline(texts(("a", 0), ("b", 1)), texts(("a", 0)))


@pytest.fixture
def composed(packages, tmp_path):
    """{split: Stage} of the twelve fake objects."""
    corpus.prepare(tmp_path / "demo", parts=["objects"], progress=False)
    folder = tmp_path / "demo" / "objects"
    return {split: stage.Stage(folder, split) for split in ("train", "test")}


def questions(there, split, count):
    """Examples of composed VQA as its source gives them, with the number of the picture."""
    made = composed_vqa.scenes_with_questions(there[split], stage.numbers("vqa", split))
    return [
        {
            "question": each.question,
            "answers": [each.answer] * 10,
            "answer_type": each.answer_type,
            "image": picture.pixels,
            "image_id": number,
        }
        for number, (picture, pair) in enumerate(itertools.islice(made, count))
        for each in pair
    ]


def interval(baseline, train, test):
    said = baseline(train, test)
    statistic = vqa.measures(said, [e["answers"] for e in test])["accuracy"]
    return bootstrap.interval(statistic, units=[e["image_id"] for e in test], resamples=1000)


def of_kind(there, split, kind, count=240):
    return [e for e in questions(there, split, count) if e["answer_type"] == kind]


@pytest.mark.parametrize("kind", ["yes/no", "number", "place", "ground"])
def test_the_question_alone_is_at_chance_on_composed_scenes(composed, kind):
    train, test = (of_kind(composed, split, kind) for split in ("train", "test"))
    chance = 1 / 2 if kind in ("yes/no", "number") else 1 / len(composed["test"].names)
    found = interval(answers.question_only, train, test)
    assert found.low <= chance <= found.high, found


@pytest.mark.parametrize("kind", ["yes/no", "number", "place", "ground"])
@pytest.mark.nightly
def test_the_picture_alone_is_right_half_the_time_at_most(composed, kind):
    """Also for one that sees perfectly: of a picture's two answers it can give only one.

    The fake objects have a colour each, so that these baselines see very well which are there.
    """
    train, test = (of_kind(composed, split, kind) for split in ("train", "test"))
    first = {e["image_id"]: e["answers"][0] for e in test}

    def oracle(train, test):
        return [first[example["image_id"]] for example in test]

    assert interval(oracle, train, test).value == 1 / 2
    for baseline in (answers.image_only, answers.image_only_pixels):
        found = interval(baseline, train, test)
        if kind in ("yes/no", "number"):
            assert found.value == 1 / 2  # whatever it says
        assert found.value <= 1 / 2


def statements(there, split, count):
    """Examples of composed NLVR2 as its source gives them."""
    there, rng = there[split], stage.numbers("nlvr2", split)
    for sentences, pairs in itertools.islice(composed_nlvr2.sets(there, rng), count):
        for two in pairs:
            pictures = [there.free(which, rng).pixels for which in two]
            for sentence in sentences:
                label = int(sentence.true(two))
                yield {"text": sentence.text, "images": pictures, "label": label}


def test_neither_sentence_nor_pictures_alone_tell_what_is_true(composed):
    train, test = (list(statements(composed, split, 15)) for split in ("train", "test"))
    truth = [("False", "True")[example["label"]] for example in test]
    for baseline in (answers.sentence_only, answers.pictures_only):
        right = classification.accuracy(baseline(train, test), truth)
        assert right.value == 1 / 2, baseline.__name__  # not only about
        found = bootstrap.interval(right)
        assert found.low < 1 / 2 < found.high
