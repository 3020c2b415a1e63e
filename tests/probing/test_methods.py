"""Predictions of each method on features that tell the classes; of mlp5 see the slow test."""

import numpy as np
import pytest

from unified_fm.probing import methods, results
from unified_fm.probing.cache import Rows
from unified_fm.probing.prompts import Prompts
from unified_fm.probing.splits import Parts
from unified_fm.tasks.probe_sets import ACCURACY, PER_CLASS

NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]


def rows(count, first, noise=0.4):
    rng = np.random.default_rng(first)
    labels = np.arange(count) % len(NAMES)
    features = np.eye(6, 8)[labels] + noise * rng.normal(size=(count, 8))
    ids = [f"{first + n}" for n in range(count)]
    numbers = np.arange(first, first + count)
    return Rows(features.astype(np.float32), [NAMES[k] for k in labels], ids, numbers)


@pytest.fixture(scope="module")
def parts():
    return Parts(rows(120, 0), rows(60, 1000), rows(60, 2000))


@pytest.mark.parametrize("method", [methods.by_regression, methods.by_neighbours])
def test_classes_are_found_and_written_by_name(parts, method):
    told = []
    said = method(parts, ACCURACY, methods.Options(), told.append)
    right = np.mean([p[0] == t for p, t in zip(said.predictions, parts.test.labels, strict=True)])
    assert right > 0.6  # chance: 1/6
    if method is methods.by_regression:
        assert len(said.predictions[0]) == 5 and said.settings["standardised"] is False
        assert len(told) == len(said.settings["tried"]) and told[0].startswith("C = 1e-06: valid")


def test_a_class_of_the_test_that_training_lacks_is_wrong_and_no_error(parts):
    strange = Rows(parts.test.features[:2], ["owl", "ant"], ["a", "b"], np.arange(2))
    own = parts._replace(test=strange, validation=parts.validation)
    said = methods.by_neighbours(own, ACCURACY, methods.Options(neighbours=500), lambda text: None)
    assert {label for row in said.predictions for label in row} <= {*NAMES}
    assert said.settings["neighbours"] == 180


def test_the_metric_of_the_set_chooses():
    said, truth = np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])
    assert methods.measure(ACCURACY)(said, truth) == 0.75
    assert methods.measure(PER_CLASS)(said, truth) == 0.5


PROMPTS = Prompts(NAMES, [n.upper() for n in NAMES], ["a {}", "the {}"], ["yours"])


def texts(prompts):
    """Features of texts: of a class, turned a little by the template and of any length."""
    found = []
    for text in prompts:
        feature = np.eye(6, 8)[NAMES.index(text[-3:].lower())]
        length = 9.0 if text.startswith("the") else 1.0
        found.append((length * (feature + 0.3 * np.eye(8)[-1])).astype(np.float32))
    return np.stack(found)


def test_zero_shot_is_the_nearest_mean_of_texts(parts):
    said = methods.by_texts(parts.test, PROMPTS, texts, None, methods.Options(), lambda text: None)
    best = parts.test.features[:, :6].argmax(1)
    assert [row[0] for row in said.predictions] == [NAMES[k] for k in best]
    assert said.settings["prompts"][0] == "a ANT" and said.notes == ["yours"]


def test_the_best_are_ordered_again_by_their_match(parts):
    asked = []

    def match(numbers, prompts):
        asked.extend(zip(numbers, prompts, strict=True))
        return np.array([-ord(text[2]) for text in prompts], float)  # the first of the alphabet

    options = methods.Options(rerank=2)
    plain = methods.by_texts(parts.test, PROMPTS, texts, None, methods.Options(), print)
    said = methods.by_texts(parts.test, PROMPTS, texts, match, options, lambda text: None)
    for before, after in zip(plain.predictions, said.predictions, strict=True):
        assert after == [*sorted(before[:2]), *before[2:]]
    assert len(asked) == 120 and asked[0][0] == 2000 == asked[1][0]


def test_predictions_are_written_and_read_back_before_they_are_scored(tmp_path, parts):
    said = [[label] for label in parts.test.labels]
    said[0] = ["bee"]
    made = results.Result(set="own", method="knn", key="k", report={}, settings={})
    kept = results.Results(tmp_path)
    finished = kept.put(made, said, parts.test, PER_CLASS)
    assert finished.report["headline"] == "mean_per_class"
    assert finished.headline["value"] == pytest.approx((0.9 + 5) / 6)
    assert finished.headline["chance"] == pytest.approx(1 / 6)
    low, high = finished.headline["ci95"]
    assert low < finished.headline["value"] <= high
    lines = (tmp_path / "predictions" / "own.knn.jsonl").read_text().splitlines()
    assert lines[0] == '{"id": "2000", "prediction": ["bee"], "truth": "ant"}'
    assert kept.get("own", "knn", "k") == finished
    assert kept.get("own", "knn", "another key") is None
    (tmp_path / "predictions" / "own.knn.jsonl").write_text("")
    assert kept.get("own", "knn", "k") is None
