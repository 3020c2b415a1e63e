"""The figures of trivial baselines on real data: a model has to beat these, so they must be right.

The data are those of the demo's packages. VADER's file and Debian's packages are found by
UNIFIED_FM_RATINGS and UNIFIED_FM_DEBIAN; without them the tests that need them are skipped.
"""

import pytest

from unified_fm.data.source import open_source
from unified_fm.demo import corpus, debian, packages
from unified_fm.scoreboard import lines, trivial
from unified_fm.tasks._baselines import answers, pixels, words
from unified_fm.tasks._metrics import classification, correlation

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def examples(folder, part, *splits, made=""):
    corpus.prepare(folder, parts=[made or part], progress=False)
    opened = open_source([f"demo:{part}/{split}@{folder}" for split in splits])
    return [opened[i] for i in range(len(opened))]


def accuracy(baseline, train, test) -> float:
    said = baseline(train, test)
    return classification.accuracy(said, [example["label"] for example in test]).value


def test_the_question_alone_answers_two_thirds_of_easy_vqa(folder):
    train = examples(folder, "easy_vqa", "train", "val")
    test = examples(folder, "easy_vqa", "test")
    assert (len(train), len(test)) == (38_575, 9_673)
    said = answers.question_only(train, test)
    found = lines.score(
        "vqa", trivial.as_lines("vqa", said, trivial.Data(train=train, test=test))
    ).statistics
    percent = {name: round(100 * statistic.value, 1) for name, statistic in found.items()}
    # Of shapes and colours those that are asked for: the answer tells which, "what color is the
    # shape?" is about a colour. Of equally frequent answers the first met counts.
    assert percent["accuracy"] == 67.0 and percent["accuracy/yes/no"] == 82.5
    assert percent["accuracy/shape"] == pytest.approx(34.8, abs=1.5)  # of three
    assert percent["accuracy/colour"] == pytest.approx(12.0, abs=1.5)  # of eight


def test_digits_by_their_pixels(folder):
    train = examples(folder, "mnist", "train")
    test = examples(folder, "mnist", "val", "test")
    assert accuracy(pixels.pixel_classes, train, test) == pytest.approx(0.906, abs=0.015)


@pytest.mark.nightly
def test_topics_by_their_words(folder):
    train = examples(folder, "topics", "train")
    test = examples(folder, "topics", "val", "test")
    assert accuracy(words.tfidf_classes, train, test) == pytest.approx(0.895, abs=0.015)


def test_pairs_of_texts_are_hardly_told_by_shared_words(folder):
    train, test = (examples(folder, "matching", split) for split in ("train", "test"))
    assert accuracy(words.overlap, train, test) < 0.75  # with random negatives: 94 %
    for half in ("text", "second"):  # neither side tells anything alone
        alone = [[{"text": e[half], "label": e["label"]} for e in each] for each in (train, test)]
        assert accuracy(words.tfidf_classes, *alone) < 0.53


@pytest.fixture
def rated():
    if packages.ratings_file() is None:
        pytest.skip(f"VADER's file is not named by {packages.RATINGS}")


def test_sentences_of_reviews_by_their_words(folder, rated):
    train = examples(folder, "sentiment", "train", "val")
    test = examples(folder, "ratings", "test")
    assert (len(train), len(test)) == (8_530, 2_128)  # without eight that are neutral
    assert accuracy(words.tfidf_classes, train, test) == pytest.approx(0.772, abs=0.01)


def test_ratings_of_editorials_by_their_words(folder, rated):
    train, test = (
        examples(folder, "editorials", "train", "val"),
        examples(folder, "editorials", "test"),
    )
    said = words.tfidf_scores(train, test)
    found = correlation.pearson(said, [example["label"] for example in test]).value
    assert found == pytest.approx(0.389, abs=0.06)  # another draw of a fifth


def test_clothes_by_the_pixels_of_thirty_of_each(folder):
    if not debian.is_there("dataset-fashion-mnist", debian.root()):
        pytest.skip(f"dataset-fashion-mnist is not below {debian.root()} ({debian.VARIABLE})")
    corpus.prepare(folder, parts=["fashion"], progress=False)
    few = open_source(f"few:30:demo:fashion/train@{folder}")
    test = examples(folder, "fashion", "test")
    assert len(test) == 10_000
    known = [few[i] for i in range(len(few))]
    assert 0.65 < accuracy(pixels.pixel_classes, known, test) < 0.85
