"""mlm and imlm: cross-entropy of the masked words."""

import numpy as np
import pytest

from tests.objectives import stubs
from unified_fm.plugins import build


def expected(net, states, batch, weights=(1, 1, 1, 1)):
    """Mean over used slots, one after the other."""
    total, count = 0.0, 0.0
    for row, weight in enumerate(weights):
        slots = zip(batch["masked_positions"][row], batch["masked_ids"][row], strict=True)
        for position, word in slots:
            if word != -100 and weight:
                logits = states[row, position] @ net.kernels[7]
                total += weight * stubs.cross_entropy(logits, word)
                count += weight
    return total / count, count


def states_of(name, views):
    if name == "mlm":
        return views.text_masked
    return views.text_masked + views.image_memory.row_mask[:, None]


@pytest.mark.parametrize("name", ["mlm", "imlm"])
@pytest.mark.parametrize("weights", [None, (1, 0, 2, 0.5)])
def test_mean_over_the_masked_words(name, weights):
    net, views, batch = stubs.Net(), stubs.make_views(), stubs.make_batch()
    if weights:
        batch["weight"] = np.array(weights, np.float32)
    loss, count = expected(net, states_of(name, views), batch, weights or (1, 1, 1, 1))
    output, _ = stubs.run(build("objectives", name), views, batch)
    assert output.loss == pytest.approx(loss, rel=1e-5)
    assert output.denominator == pytest.approx(count) == (7 if weights is None else 6)


def test_accuracy_counts_the_words_that_score_highest():
    net, views, batch = stubs.Net(), stubs.make_views(), stubs.make_batch()
    scores = stubs.build_scores(net, views, batch)
    used = np.asarray(batch["masked_ids"]) != -100
    right = scores.argmax(-1) == np.asarray(batch["masked_ids"])
    output, _ = stubs.run(build("objectives", "mlm"), views, batch)
    assert output.metrics["accuracy"] == pytest.approx(right[used].mean())


def test_a_batch_without_a_single_masked_word_costs_nothing():
    batch = stubs.make_batch()
    batch["masked_ids"] = np.full((4, 2), -100)
    output, _ = stubs.run(build("objectives", "mlm"), batch=batch)
    assert (output.loss, output.denominator) == (0, 0)


@pytest.mark.parametrize(("options", "moves"), [({}, False), ({"stop_text_gradient": False}, True)])
def test_imlm_moves_the_text_only_if_asked_to(options, moves):
    views, batch = stubs.make_views(), stubs.make_batch()

    def loss(text):
        given = views.replace(text_masked=text)
        return stubs.value(build("objectives", "imlm", **options), stubs.Net(), given, batch).loss

    _, gradient = stubs.gradient(loss, views.text_masked)
    assert gradient.any() == moves
