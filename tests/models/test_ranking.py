"""Ranking many given texts equals scoring them one by one."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_xfm
from tests.models.test_decoder import at_once, decoder_of, make_batch, make_params
from unified_fm.models import ranking
from unified_fm.models.memory import ImageMemory

FIRST, END = 2, 4
TEXTS = [[7], [7, 8], [7, 8, 9], [10, 8], [11], [11, 7, 7], [12, 5], [7, 9], [], [13, 13, 13]]


@pytest.fixture(scope="module")
def world():
    layers = tiny_xfm.LAYER | tiny_xfm.STILL | {"layers": 2}
    net = tiny_xfm.model(fusion=layers)
    batch = make_batch()
    batch["slot_mask"] = jnp.arange(5) < jnp.array([5, 3, 2])[:, None]
    return net, make_params(net), batch


@pytest.fixture(scope="module")
def expected(world):
    """f64[B A]: each text by itself, token by token, and f64[B A] of its first token."""
    net, params, batch = world
    longest = max(map(len, TEXTS)) + 1
    found, logits_of = np.zeros((2, 3, len(TEXTS))), tiny_xfm.jit(nn.apply(at_once, net))
    for number, text in enumerate(TEXTS):
        ids = [FIRST, *text, END]
        padded = np.array([ids + [END] * (longest + 1 - len(ids))] * 3)
        logits = logits_of({"params": params}, batch | {"ids": jnp.asarray(padded)})
        logits = np.asarray(logits, np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        each = [log_p[:, place, token] for place, token in enumerate(ids[1:])]
        found[0, :, number], found[1, :, number] = sum(each), each[0]
    return found


def test_the_tree_holds_every_beginning_once():
    made = ranking.candidates(TEXTS, END)
    assert made.lengths.tolist() == [len(text) + 1 for text in TEXTS]
    # Depth 0 the beginning; depth 1: 7 10 11 12 13; depth 2: 78 79 108 117 125 1313; depth 3 three.
    assert made.tokens.shape == (1, 4, 6)
    assert sorted(made.tokens[0, 1, :5].tolist()) == [7, 10, 11, 12, 13]
    assert len(ranking.candidates(TEXTS, END, chunk=3).tokens) == 4
    with pytest.raises(ValueError, match="no text to rank"):
        ranking.candidates([], END)


@pytest.mark.parametrize("chunk", [100, 3])
def test_all_texts_at_once_have_the_scores_that_each_has_alone(world, expected, chunk):
    net, params, batch = world
    texts = ranking.candidates(TEXTS, END, chunk=chunk)

    def call(net, batch):
        memory = ImageMemory(image=batch["seen"], slot_mask=batch["slot_mask"])
        decoder = decoder_of(net)
        scores = ranking.all_scores(decoder, memory, FIRST, texts, end=END)
        return scores, ranking.first_scores(decoder, memory, FIRST, texts)

    scores, first = tiny_xfm.apply(call, net, params, batch)
    np.testing.assert_allclose(scores, expected[0], atol=2e-5)
    np.testing.assert_allclose(first, expected[1], atol=2e-5)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_best_first_tokens_bring_all_that_begin_so(world, expected, count):
    net, params, batch = world
    texts = ranking.candidates(TEXTS, END)

    def call(net, batch):
        memory = ImageMemory(image=batch["seen"], slot_mask=batch["slot_mask"])
        return ranking.best_scores(decoder_of(net), memory, FIRST, texts, count=count)

    scores = np.asarray(tiny_xfm.apply(call, net, params, batch))
    kept = np.zeros(scores.shape, bool)
    for row in range(3):
        cut = np.sort(expected[1, row])[::-1][min(count, len(TEXTS)) - 1]
        kept[row] = expected[1, row] >= cut  # with all that tie at the cut
    np.testing.assert_array_equal(scores > -np.inf, kept)
    np.testing.assert_allclose(scores[kept], expected[0][kept], atol=2e-5)
    assert kept.all() == (count == 100)
