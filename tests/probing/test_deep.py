"""The published five layers on features that tell the classes."""

import numpy as np
import pytest

from unified_fm.tasks._probes import deep


@pytest.mark.slow
def test_the_head_learns_and_the_best_epoch_is_kept():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    features = (np.eye(3, 6)[labels] * 2 + rng.normal(size=(240, 6))).astype(np.float32)
    recipe = deep.Recipe(lr=3e-3, batch=32, epochs=12)
    told = []
    found = deep.probe(
        *((features[:120], labels[:120]), (features[120:180], labels[120:180]), 3),
        lambda said, truth: float((said == truth).mean()),
        recipe,
        told=lambda epoch, score: told.append((epoch, score)),
    )
    assert [epoch for epoch, _ in told] == [*range(1, 13)]
    assert found.scores[found.epoch - 1] == max(found.scores)
    kept = found.logits(features[120:180]).argmax(1) == labels[120:180]
    assert kept.mean() == pytest.approx(max(found.scores))
    assert (found.logits(features[180:]).argmax(1) == labels[180:]).mean() > 0.6  # chance: 1/3


def test_a_recipe_without_an_epoch_is_refused():
    none = np.zeros((1, 2), np.float32), np.zeros(1, int)
    with pytest.raises(ValueError, match="at least one epoch"):
        deep.probe(none, none, 1, lambda said, truth: 0.0, deep.Recipe(epochs=0))
