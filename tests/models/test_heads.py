"""Heads: what the golden file does not pin."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_xfm
from unified_fm.models.heads import PairHead, l2_normalised


@pytest.mark.parametrize(("outputs", "activation"), [(2, "none"), (4, "sigmoid")])
def test_pair_heads_have_a_norm_of_eps_1e_5(outputs, activation):
    """An input so small that the eps decides: 1e-5 leaves 0.3 of it, 1e-12 would leave 1."""
    head = PairHead(outputs, activation=activation)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    p = {
        "dense": {"kernel": 1e-3 * rng.normal(size=(4, 8)), "bias": np.zeros(8)},
        "norm": {"scale": np.ones(8), "bias": np.zeros(8)},
        "out": {"kernel": rng.normal(size=(8, outputs)), "bias": np.zeros(outputs)},
    }
    hidden = x @ p["dense"]["kernel"]
    centred = hidden - hidden.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    expected = np.asarray(jax.nn.gelu(normed, approximate=False)) @ p["out"]["kernel"]
    if activation == "sigmoid":
        expected = 1 / (1 + np.exp(-expected))
    p = jax.tree.map(np.float32, p)
    np.testing.assert_allclose(head.apply({"params": p}, x), expected, rtol=1e-4, atol=1e-5)


def test_the_head_norms_keep_their_eps_when_the_encoders_have_another():
    net = tiny_xfm.model(fusion=tiny_xfm.LAYER | {"eps": 1e-12})
    found = []

    def read(net):
        found.extend([net.itm_head.eps, net.box_head.eps])
        return net.temperature

    jax.eval_shape(lambda key: net.init(key, method=read), jax.random.key(0))
    assert found == [1e-5, 1e-5]


@pytest.mark.parametrize(
    ("value", "inside"), [(0.0, 0.001), (-3.0, 0.001), (0.07, 0.07), (0.5, 0.5), (2.0, 0.5)]
)
def test_the_temperature_is_clipped_and_keeps_its_gradient(value, inside):
    net = tiny_xfm.model()

    def run(temperature):
        return net.apply({"params": {"temperature": temperature}}, method="clipped_temperature")

    found, gradient = jax.value_and_grad(run)(jnp.float32(value))
    assert found == pytest.approx(inside, rel=1e-5)
    assert gradient == 1


def test_features_have_length_1_and_a_zero_vector_no_nan():
    found = l2_normalised(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], atol=1e-6)
    gradient = jax.grad(lambda x: l2_normalised(x).sum())(jnp.zeros((1, 2)))
    assert np.isfinite(gradient).all()


def test_a_tied_head_decodes_with_the_word_embeddings():
    """Doubling a word's embedding doubles its logit; the untied head has a matrix of its own."""
    net = tiny_xfm.model()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16)), jnp.float32)

    def logits(net, x):
        return net.mlm_head(x), net.fusion_mlm_head(x)

    params = jax.jit(nn.init(logits, net))(jax.random.key(0), x)["params"]
    table = params["text_embed"]["word"]["embedding"]
    changed = params | {"text_embed": {"word": {"embedding": table.at[7].multiply(2.0)}}}
    (before, own), (after, same) = (tiny_xfm.apply(logits, net, p, x) for p in (params, changed))
    np.testing.assert_allclose(after[:, 7], 2 * before[:, 7], rtol=1e-5)
    np.testing.assert_allclose(after[:, :7], before[:, :7], rtol=1e-5)
    np.testing.assert_array_equal(own, same)


def test_logits_are_float32_in_bfloat16_models():
    net = tiny_xfm.model(dtype="bfloat16")
    x = jax.ShapeDtypeStruct((2, 16), jnp.bfloat16)
    heads = "mlm_head", "fusion_mlm_head", "itm_head", "box_head"

    def outputs(net, x):
        return [getattr(net, head)(x) for head in heads]

    found, _ = jax.eval_shape(nn.init_with_output(outputs, net), jax.random.key(0), x)
    assert [x.dtype.name for x in found] == ["float32"] * 4
