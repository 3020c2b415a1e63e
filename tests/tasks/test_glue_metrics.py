"""GLUE's numbers against scikit-learn, SciPy and the vectors of their documents."""

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from unified_fm.tasks._metrics import classification, correlation, glue, nlvr2


def test_13_5_small_numbers():
    said, true = [1, 1, 0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 1, 1]
    assert classification.matthews(said, true, 1).value == pytest.approx(0.4666666667, abs=1e-10)
    assert classification.f1(said, true, 1).value == pytest.approx(0.8)
    assert classification.matthews([1] * 8, true, 1).value == 0
    assert classification.f1([0] * 3, [0] * 3, 1).value == 0
    scores = [0.2, 1, 3.5, 4.1]
    assert correlation.pearson([0, 1.5, 3, 5], scores).value == pytest.approx(
        0.9567396714, abs=1e-10
    )
    assert correlation.spearman([0, 1.5, 1.5, 5], scores).value == pytest.approx(
        0.9486832981, abs=1e-10
    )


@pytest.mark.parametrize("bad", [[2.5] * 4, [0.1 + 0.2] * 4, [1, np.nan, 2, 3], [np.inf, 1, 2, 3]])
def test_predictions_without_a_correlation_count_as_0_and_say_so(bad):
    found = glue.metrics("stsb", bad, [0.2, 1, 3.5, 4.1])
    assert found == {"mean": 0, "pearson": 0, "spearman": 0}
    assert "is taken as 0" in glue.notes("stsb", bad)[0]


def test_words_are_scored_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    true = rng.choice(["0", "1"], 300, p=[0.3, 0.7])
    said = np.where(rng.random(300) < 0.75, true, rng.choice(["0", "1"], 300))
    found = glue.metrics("mrpc", said.tolist(), true.tolist())
    accuracy = sklearn.metrics.accuracy_score(true, said)
    f1 = sklearn.metrics.f1_score(true, said, pos_label="1")
    assert found == pytest.approx({"mean": (accuracy + f1) / 2, "accuracy": accuracy, "f1": f1})
    found = glue.metrics("cola", said.tolist(), true.tolist())
    assert found == pytest.approx({"matthews": sklearn.metrics.matthews_corrcoef(true, said)})


def test_stsb_is_the_mean_of_both_correlations():
    rng = np.random.default_rng(1)
    true = np.round(rng.uniform(0, 5, 200), 1)
    said = 1e6 + true + rng.normal(size=200)  # r does not see a shift, nor may rounding
    r, rho = stats.pearsonr(said, true)[0], stats.spearmanr(said, true)[0]
    found = glue.metrics("stsb", said, true)
    assert found == pytest.approx({"mean": (r + rho) / 2, "pearson": r, "spearman": rho})
    assert next(iter(found)) == "mean"


def test_a_guess_is_the_best_constant():
    true = ["1"] * 7 + ["0"] * 3
    assert glue.chance("sst2", true) == {"accuracy": 0.7}
    expected = {"mean": (0.7 + 14 / 17) / 2, "accuracy": 0.7, "f1": 14 / 17}
    assert glue.chance("mrpc", true) == pytest.approx(expected)
    # The positive class is rare here: to say it always is what F1 rewards.
    assert glue.chance("qqp", ["0"] * 9 + ["1"])["f1"] == pytest.approx(2 / 11)
    assert glue.chance("cola", true) == {"matthews": 0}


def test_glues_average_counts_mnli_once():
    assert glue.overall({"mnli_matched": 0.8, "mnli_mismatched": 0.9, "rte": 0.6}) == pytest.approx(
        (0.85 + 0.6) / 2
    )
    with pytest.raises(ValueError, match=r"GLUE task is 'sst-2'; did you mean 'sst2'\?"):
        glue.metrics("sst-2", ["1"], ["1"])


def test_classes_are_scored_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    scores = rng.random((400, 12))
    true = rng.integers(0, 12, 400) ** 2 // 12  # uneven
    order = np.argsort(-scores, axis=1)
    found = classification.metrics(order.tolist(), true.tolist())
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, order[:, 0]))
    expected = sklearn.metrics.top_k_accuracy_score(true, scores, k=5, labels=range(12))
    assert found["top5"] == pytest.approx(expected)
    recall = sklearn.metrics.recall_score(
        true, order[:, 0], average="macro", labels=np.unique(true), zero_division=0
    )
    assert found["mean_per_class"] == pytest.approx(recall)


def test_labels_without_lists_have_no_top5():
    found = classification.metrics(["cat", "dog", "dog"], ["cat", "dog", "cat"])
    assert found == pytest.approx({"accuracy": 2 / 3, "mean_per_class": 0.75})
    with pytest.raises(ValueError, match="1 predictions for 2 examples"):
        classification.metrics(["cat"], ["cat", "dog"])


def test_nlvr2_is_consistent_where_every_pair_of_a_sentence_is_right():
    names = ["dev-850-0-0", "dev-850-1-0", "dev-850-0-1", "dev-851-0-0", "dev-851-1-0"]
    true = ["True", "False", "True", "False", "True"]
    said = ["True", "False", "True", "True", "True"]
    assert nlvr2.metrics(said, true, names) == pytest.approx(
        {"accuracy": 0.8, "consistency": 2 / 3}
    )
    assert nlvr2.sets(names) == ["dev-850"] * 3 + ["dev-851"] * 2
    assert nlvr2.chance(true, names) == pytest.approx({"accuracy": 0.6, "consistency": 1 / 3})


def test_a_boolean_is_no_label_of_nlvr2():
    with pytest.raises(ValueError, match="label True; possible: 'True', 'False'"):
        nlvr2.metrics([True], ["True"], ["dev-1-0-0"])
    with pytest.raises(ValueError, match="'dev-1-0' is not of the form split-set-pair-sentence"):
        nlvr2.metrics(["True"], ["True"], ["dev-1-0"])
