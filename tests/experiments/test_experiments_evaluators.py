"""The evaluators of the experiments: a probe of several draws, a loss after one temperature."""

import numpy as np
import pytest

from experiments import drawn_probe, tempered
from tests.evaluators import worlds

PIXELS = {"size": worlds.SIZE, "patch_size": 4}


def drawn(**options):
    """On twelve squares of four colours."""
    return drawn_probe.Evaluator(
        source="tests.evaluators.worlds:labelled",
        options=PIXELS,
        tokenizer=worlds.make_tokenizer(),
        **options,
    )


def test_a_probe_learns_from_each_draw_and_is_asked_about_the_rest(monkeypatch):
    seen = []

    def guesses(self, known, labels, asked, classes):
        seen.append((sorted(labels.tolist()), len(asked), classes))
        return np.zeros(len(asked), int)

    monkeypatch.setattr(drawn_probe.Evaluator, "guesses", guesses)
    evaluator = drawn(train_examples=8, draws=3)
    oracle = worlds.Apply(worlds.Oracle(evaluator.tokenizer))
    (metric,) = evaluator.run(oracle, {})
    assert evaluator.sources == (evaluator.source,)
    assert [(len(labels), asked, classes) for labels, asked, classes in seen] == [(8, 4, 4)] * 3
    assert len({tuple(labels) for labels, _, _ in seen}) > 1
    # Of the three records of class 0, those that were not drawn are right.
    assert metric.value == np.mean([(3 - labels.count(0)) / 4 for labels, _, _ in seen])
    first, seen[:] = list(seen), []
    list(evaluator.run(oracle, {}))
    assert seen == first


def test_a_probe_of_draws_finds_what_there_is():
    evaluator = drawn(train_examples=9)
    (metric,) = evaluator.run(worlds.Apply(worlds.Oracle(evaluator.tokenizer)), {})
    assert metric.value == 1.0 and metric.how == "4 draws of 9 to learn from"
    with pytest.raises(ValueError, match="12 of 12 examples"):
        list(drawn(train_examples=12).run(worlds.Apply(worlds.Oracle(evaluator.tokenizer)), {}))


def test_each_half_gets_the_temperature_of_the_other():
    # Two classes, right three times of four: the best logits are (log 3, 0). These are twice as
    # sure for even examples, and 1.5 times for odd ones.
    right = np.arange(400) % 16 < 12
    odd = np.arange(400) % 2 == 1
    logits = np.log(3) * np.where(odd, 1.5, 2.0)[:, None] / tempered.TEMPERATURES
    losses = np.logaddexp(0, np.where(right[:, None], -logits, logits))
    kept, (of_even, of_odd) = tempered.fitted(losses, np.arange(400))
    assert (of_even, of_odd) == pytest.approx((1.5, 2.0), abs=2e-3)
    sure = np.log(3) * np.where(odd, 1.5 / 2.0, 2.0 / 1.5)
    np.testing.assert_allclose(kept, np.logaddexp(0, np.where(right, -sure, sure)), atol=1e-3)


def test_a_loss_after_a_temperature_is_that_of_the_logits():
    tokenizer = worlds.make_tokenizer()
    given = {"tokenizer": tokenizer, "batch_size": 3, "num_examples": None}
    oracle = worlds.Apply(worlds.Oracle(tokenizer))
    words = tempered.Evaluator(
        source="tests.evaluators.worlds:eight",
        options={"max_len": 8, "mask_rate": 1.0, "max_masked": 6},
        **given,
    )
    entropy, _ = words.run(oracle, {})
    assert entropy.value == pytest.approx(np.log(tokenizer.vocab_size))  # all logits are the same
    images = tempered.Evaluator(
        source="tests.evaluators.worlds:labelled",
        pipeline="classify",
        options=PIXELS | {"augment": "none"},
        **given,
    )
    entropy, temperature = images.run(oracle, {})
    # Of eight logits the right one is 1 and the others 0; as sure as can be is best.
    assert temperature.value == pytest.approx(0.5)
    assert entropy.value == pytest.approx(np.log(7 + np.e**2) - 2, abs=1e-4)
