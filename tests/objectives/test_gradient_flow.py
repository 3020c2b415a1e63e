"""Which parts of X-FM each loss moves (X-FM section 2.6): the papers' claim, to the last zero."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.models import tiny_xfm
from tests.objectives import stubs
from unified_fm.plugins import build

TEXT = {"text_embed", "text"}
VISION = {"patch_embed", "vision"}
PROJECTIONS = {"text_proj", "image_proj", "temperature"}
WORDS = {"fusion", "fusion_mlm_head"}

MOVING, STILL = {"stop_text_gradient": False}, {"stop_text_gradient": True}

# (stream, objective): the sub-trees that receive a gradient; all others get exact zeros.
FLOW = {
    "mlm": ("text", "mlm", TEXT | {"mlm_head"}),
    "mim": ("image", "mim", VISION),
    "itc": ("pairs", "itc", TEXT | VISION | PROJECTIONS),
    "itm": ("pairs", "itm", VISION | {"fusion", "itm_head"}),
    "imlm": ("pairs", "imlm", VISION | WORDS),
    "bbox": ("regions", "bbox", VISION | {"fusion", "box_head"}),
}
# The same with the options of an ablation: (stream, objective, options, sub-trees).
SWITCHED = {
    "itc still": ("pairs", "itc", STILL, VISION | PROJECTIONS),
    "itm moving": ("pairs", "itm", MOVING, TEXT | VISION | {"fusion", "itm_head"}),
    "imlm moving": ("pairs", "imlm", MOVING, TEXT | VISION | WORDS),
    "bbox moving": ("regions", "bbox", MOVING, TEXT | VISION | {"fusion", "box_head"}),
    "pixels": ("pairs", "pixels", {}, VISION | {"mim_head"}),
}


def gradients_of(cases):
    """Of every case (stream, objective, options), compiled as one program."""
    net = tiny_xfm.model()
    params, batches = tiny_xfm.params(net), tiny_xfm.make_batches()
    head = {"kernel": np.full((16, 48), 0.1, np.float32), "bias": np.zeros(48, np.float32)}
    params = params | {"mim_head": head}  # of `pixels` alone

    def loss(params, stream, name, options):
        def run(net, batch):
            return stubs.value(build("objectives", name, **options), net, net(batch), batch).loss

        rngs = {"objective": jax.random.key(0)}
        return nn.apply(run, net)({"params": params}, batches[stream], rngs=rngs)

    def all_of_them(params):
        return {case: jax.grad(loss)(params, *what) for case, what in cases.items()}

    return tiny_xfm.jit(all_of_them)(params)


def moved(tree):
    return {
        part
        for part, leaves in tree.items()
        if any(np.abs(x).max() > 0 for x in jax.tree.leaves(leaves))
    }


@pytest.fixture(scope="module")
def gradients():
    return gradients_of({case: (stream, name, {}) for case, (stream, name, _) in FLOW.items()})


@pytest.mark.parametrize("case", FLOW)
def test_gradient_reaches_exactly_these_parts(gradients, case):
    assert moved(gradients[case]) == FLOW[case][2]


@pytest.mark.slow
def test_a_switch_opens_or_closes_the_way_to_the_language_encoder():
    found = gradients_of({case: what[:3] for case, what in SWITCHED.items()})
    assert {case: moved(tree) for case, tree in found.items()} == {
        case: parts for case, (*_, parts) in SWITCHED.items()
    }


def test_mim_teaches_the_masked_pass_only(gradients):
    """The mask token is seen by the masked pass alone; other losses never see it."""
    for case, tree in gradients.items():
        assert (np.abs(tree["vision"]["mask_token"]).max() > 0) == (case == "mim")


def test_the_language_head_shares_the_word_embeddings(gradients):
    """A word that is not in the batch still moves: it is a wrong answer of the tied decoder."""
    ids = {int(i) for i in tiny_xfm.make_batches()["text"]["text_masked"].ravel()}
    absent = next(i for i in range(5, 40) if i not in ids)
    table = gradients["mlm"]["text_embed"]["word"]["embedding"]
    assert np.abs(table[absent]).max() > 0


def test_every_gradient_is_finite(gradients):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
