import numpy as np
import pytest

from tests.evaluators import worlds
from unified_fm.evaluators import knn, linear_probe


def test_votes_are_weighted_by_similarity():
    known = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels = np.array([0, 1, 1])
    asked = np.array([[2.0, 0.0], [0.5, 0.5]])  # lengths do not matter
    # First: cosines 1, .6, .6. At temperature 1 two votes of e^.6 beat e^1; at .1 they do not.
    assert knn.vote(known, labels, asked, 3, 1.0).tolist() == [1, 1]
    assert knn.vote(known, labels, asked, 3, 0.1).tolist() == [0, 1]
    assert knn.vote(known, labels, asked, 1, 1.0).tolist() == [0, 1]


def test_A9_a_probe_that_is_not_solved_says_how_far_it_may_be(caplog):
    evaluator = probe_of(linear_probe, steps=1)
    list(evaluator.run(worlds.Apply(worlds.Oracle(evaluator.tokenizer)), {}))
    assert "after 1 steps the weights may be" in caplog.text
    with pytest.raises(ValueError, match="decay is 0; it must be above 0"):
        probe_of(linear_probe, decay=0)


def probe_of(module, **options):
    return module.Evaluator(
        source="tests.evaluators.worlds:labelled",
        train_source="tests.evaluators.worlds:labelled",
        options={"size": worlds.SIZE, "patch_size": 4},
        tokenizer=worlds.make_tokenizer(),
        batch_size=5,
        **options,
    )


@pytest.mark.parametrize("module", [knn, linear_probe])
def test_accuracy_stands_beside_the_majority_class(module):
    evaluator = probe_of(module)
    (metric,) = evaluator.run(worlds.Apply(worlds.Oracle(evaluator.tokenizer)), {})
    assert metric.value == 1.0
    assert (metric.chance, metric.chance_is) == (0.25, "majority of 4 classes")


@pytest.mark.parametrize("module", [knn, linear_probe])
def test_D11_work_without_the_model_gives_signs_of_life(module, monkeypatch):
    monkeypatch.setattr(knn, "_AT_ONCE", 3)
    evaluator, signs = probe_of(module), []
    evaluator.passes.progress = lambda: signs.append(1)
    apply = worlds.Apply(worlds.Oracle(evaluator.tokenizer))

    def asked(*args, **kw):
        signs.clear()  # what comes after the last call of the model is host work alone
        return apply(*args, **kw)

    (metric,) = evaluator.run(asked, {})
    assert metric.value == 1.0
    assert len(signs) > 3


def test_D11_decoding_held_out_data_gives_a_sign_of_life_for_each_record():
    evaluator, signs = probe_of(knn), []
    evaluator.passes.progress = lambda: signs.append(1)
    evaluator.load(count=10)
    assert len(signs) == 10
