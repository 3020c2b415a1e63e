"""Layers against NumPy, and the switches that BERT, ViT and BEiT differ by."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tests.models.tiny_xfm import jit
from unified_fm import placement, rules
from unified_fm.models import stack
from unified_fm.models.attention import attend, relative_position_index
from unified_fm.models.config import EncoderConfig
from unified_fm.models.encoders import Encoder
from unified_fm.models.layers import Layer
from unified_fm.models.memory import ImageMemory, look_together
from unified_fm.models.rows import Rows

SIZES = {"layers": 2, "width": 8, "heads": 2, "mlp_width": 12}


def draw(module, *args, seed=0):
    """Random parameters, norms and scales around 1."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]

    def leaf(path, x):
        one = str(path[-1].key) == "scale" or "scale_" in str(path[-1].key)
        return (0.5 * rng.normal(size=x.shape) + one).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def run(module, p, *args):
    return jit(lambda p, args: module.apply({"params": p}, *args))(p, args)


def keyed(x, seed=0):
    """The rows of x, of which something is dropped."""
    return Rows((len(x),), keys=(jax.random.key(seed),))


def norm(x, p, eps):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * p["scale"] + p["bias"]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x, kind):
    if kind == "erf":
        return x * (1 + special.erf(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def attention(x, memory, p, mask=None, bias=0.0):
    def project(name, y):
        return np.einsum("bld,dhk->blhk", y, p[name]["kernel"]) + p[name].get("bias", 0)

    query, key, value = project("query", x), project("key", memory), project("value", memory)
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1]) + bias
    if mask is not None:
        logits = np.where(mask[:, None, None], logits, -1e9)
    y = np.einsum("bhqk,bkhd->bqhd", softmax(logits), value)
    return np.einsum("bqhd,hdk->bqk", y, p["out"]["kernel"]) + p["out"]["bias"]


def mlp(x, p, kind):
    hidden = gelu(x @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"], kind)
    return hidden @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)


MASK = np.array([[1, 1, 1, 0, 1], [1, 1, 1, 1, 1]], bool)


@pytest.mark.parametrize(("kind", "eps"), [("erf", 1e-5), ("tanh", 1e-1)])
def test_post_norm_layer_with_cross_attention_is_a_roberta_layer(x, kind, eps):
    config = EncoderConfig(**SIZES, norm="post", gelu=kind, eps=eps)
    memory = np.random.default_rng(2).normal(size=(2, 3, 8)).astype(np.float32)
    seen = np.array([[1, 1, 0], [1, 1, 1]], bool)  # of slot 0, the region's own, and two patches
    layer = Layer(config, cross_attention=True)

    def look(layer, x, memory):
        rows = Rows((2,))
        images = ImageMemory(memory, memory[:, 0], jnp.arange(2), seen[:, 1:])
        looks = look_together([(images, None, "row")], shards=1)
        return layer(x, MASK[:, None, None], rows, looks)

    p = jax.eval_shape(nn.init(look, layer), jax.random.key(0), x, memory)["params"]
    rng = np.random.default_rng(0)
    p = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), p)
    y = norm(x + attention(x, x, p["self_attn"], MASK), p["self_norm"], eps)
    y = norm(y + attention(y, memory, p["cross_attn"], seen), p["cross_norm"], eps)
    y = norm(y + mlp(y, p, kind), p["mlp_norm"], eps)
    found = jit(nn.apply(look, layer))({"params": p}, x, memory)
    np.testing.assert_allclose(found, y, atol=2e-5)


def test_pre_norm_layer_with_scales_and_position_biases_is_a_beit_layer():
    config = EncoderConfig(
        **SIZES, norm="pre", eps=1e-6, layer_scale=0.1, relative_position_bias=True, key_bias=False
    )
    x = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)  # 1 + 2 x 2 patches
    layer = Layer(config, grid=2)
    p = draw(layer, x)
    assert "bias" not in p["self_attn"]["key"]
    bias = p["relative_position_bias"][relative_position_index(2)].transpose(2, 0, 1)
    normed = norm(x, p["self_norm"], 1e-6)
    y = x + p["scale_attn"] * attention(normed, normed, p["self_attn"], bias=bias)
    y = y + p["scale_mlp"] * mlp(norm(y, p["mlp_norm"], 1e-6), p, "erf")
    np.testing.assert_allclose(run(layer, p, x), y, atol=2e-5)


def test_relative_positions_of_a_class_token_and_four_patches():
    # Table of (2 * 2 - 1)^2 + 3 = 12 rows: 0..8 are offsets (row + 1) * 3 + column + 1.
    assert relative_position_index(2).tolist() == [
        [11, 9, 9, 9, 9],
        [10, 4, 3, 1, 0],
        [10, 5, 4, 2, 1],
        [10, 7, 6, 4, 3],
        [10, 8, 7, 5, 4],
    ]


def test_relative_positions_at_224_pixels_use_the_published_rows():
    index = relative_position_index(14)
    assert (index[0, 1], index[1, 0], index[0, 0]) == (729, 730, 731)
    assert index[1, 1] == 13 * 27 + 13  # a patch and itself
    assert index[1, 196] == 0 and index[196, 1] == 728  # opposite corners


def test_implementations_of_attention_agree():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, 5, 2, 4)).astype(np.float32) for _ in range(3))
    bias = rng.normal(size=(2, 5, 5)).astype(np.float32)
    mask = MASK[:, None, None]

    def total(implementation, bias):
        y = attend(query, key, value, mask=mask, bias=bias, implementation=implementation)
        return (y**2).sum(), y

    grads = jit(jax.value_and_grad(total, argnums=1, has_aux=True), static_argnums=0)
    (_, plain), plain_grad = grads("einsum", jnp.asarray(bias))
    (_, fused), fused_grad = grads("xla", jnp.asarray(bias))
    np.testing.assert_allclose(plain, fused, atol=1e-6)
    np.testing.assert_allclose(plain_grad, fused_grad, atol=1e-5)
    assert np.abs(plain_grad).max() > 0.01


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_a_query_that_may_look_nowhere_gets_the_mean_and_not_nan(implementation):
    value = jnp.arange(8.0).reshape(1, 2, 1, 4)
    ones = jnp.ones((1, 2, 1, 4))
    nothing = jnp.zeros((1, 1, 1, 2), bool)
    y = attend(ones, ones, value, mask=nothing, implementation=implementation)
    np.testing.assert_allclose(y[0, 0, 0], [2, 3, 4, 5])


def test_dropout_acts_only_with_its_rng(x):
    layer = Layer(EncoderConfig(**SIZES, dropout=0.5, attention_dropout=0.5))
    p = draw(layer, x)
    still = run(layer, p, x)
    np.testing.assert_array_equal(still, run(layer, p, x))
    one, two = (run(layer, p, x, None, keyed(x, seed)) for seed in (0, 1))
    assert np.abs(one - still).max() > 0.1 and np.abs(one - two).max() > 0.1


def test_attention_dropout_keeps_the_mean():
    ones = jnp.ones((1, 2000, 1, 1))
    keep = jax.random.bernoulli(jax.random.key(0), 0.75, (1, 1, 2000, 2000))
    y = attend(ones, ones, ones, keep=keep, rate=0.25)
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert y.std() > 0.005


def test_drop_path_drops_whole_branches_of_a_sample_more_often_in_later_layers(x):
    """At rate 0.5 the second of two layers leaves about half of the samples as they were."""
    config = EncoderConfig(**SIZES, norm="pre", drop_path=0.5)
    rows = np.repeat(x[:1], 400, axis=0)
    p = draw(Layer(config), x)
    dropping = keyed(rows)
    last = run(Layer(config, index=1), p, rows, None, dropping)
    untouched = (last == rows).all((1, 2))
    assert untouched.mean() == pytest.approx(0.25, abs=0.07)  # both branches dropped
    first = Layer(config, index=0)
    np.testing.assert_array_equal(run(first, p, rows, None, dropping), run(first, p, rows))


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_keeps_names_values_and_gradients(x, remat):
    def build(remat):
        return Encoder(EncoderConfig(**SIZES | {"layers": 1}, norm="pre", dropout=0.5, remat=remat))

    plain, lean = build("none"), build(remat)
    p = draw(plain, x)
    assert jax.tree.structure(p) == jax.tree.structure(draw(lean, x))

    def loss(module, p):
        return (module.apply({"params": p}, x, MASK, keyed(x)) ** 2).sum()

    grad = jit(jax.grad(loss, argnums=1), static_argnums=0)
    for expected, found in zip(*map(jax.tree.leaves, (grad(plain, p), grad(lean, p))), strict=True):
        np.testing.assert_allclose(expected, found, rtol=1e-4, atol=1e-4)


def test_a_mask_over_queries_and_keys_makes_a_causal_encoder(x):
    encoder = Encoder(EncoderConfig(**SIZES))
    p = draw(encoder, x)
    causal = np.broadcast_to(np.tri(5, dtype=bool), (2, 5, 5))
    changed = x.copy()
    changed[:, 3:] += 1
    before, after = (run(encoder, p, y, causal) for y in (x, changed))
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 0.1


def test_what_the_log_says_of_masks_is_what_the_attention_gets():
    images, slots = jnp.ones((2, 5, 8)), jnp.ones((2, 8))
    plain, padded = ImageMemory(image=images), jnp.ones((2, 5), bool)
    regions = ImageMemory(image=images, pooled=slots, row_mask=jnp.ones((2, 4), bool))
    texts = ImageMemory(image=images, slot_mask=padded)
    for memory, view, told in (
        (plain, "row", {"images": False}),
        (regions, "row", {"regions": True}),
        (regions, "image", {"images": False}),
        (texts, "row", {"padded texts": True}),
    ):
        looks = look_together([(memory, None, view)], shards=1)
        _, mask = memory.seen(images, slots, None, looks.looks[0].view)
        assert looks.masked() == told == {next(iter(told)): mask is not None}


@pytest.mark.parametrize("loop", ["unrolled", "scan"])
def test_kernels_are_sent_in_the_dtype_that_they_are_used_in(x, loop, monkeypatch):
    """And the numbers are those of layers that convert them themselves, to the last bit."""
    options = SIZES | {"dtype": "bfloat16", "layer_loop": loop}
    encoder = Encoder(EncoderConfig(**options, norm="pre"))
    p, sent = draw(encoder, x), {}

    def params(path, tree):
        sent.update({name: leaf.dtype.name for name, leaf in rules.named_leaves(tree)})
        return tree

    def loss(p):
        with placement.use(placement.Placement(params=params)):
            y = encoder.apply({"params": p}, x)
        return (y.astype(jnp.float32) ** 2).sum(), y

    found = jit(jax.value_and_grad(loss, has_aux=True))(p)
    assert sent["mlp_in/kernel"] == sent["self_attn/query/kernel"] == "bfloat16"
    assert {dtype for name, dtype in sent.items() if not name.endswith("kernel")} == {"float32"}

    def as_stored(module):
        return [module.variables["params"][name] for name in ("layer_00", "layer_01")]

    monkeypatch.setattr(stack, "_params", as_stored)
    expected = jit(jax.value_and_grad(lambda p: loss(p), has_aux=True))(p)
    assert sent["mlp_in/kernel"] == "float32"
    jax.tree.map(np.testing.assert_array_equal, found, expected)
