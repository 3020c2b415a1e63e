"""Positions, patches, tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from unified_fm.models.config import EncoderConfig
from unified_fm.models.embeddings import PatchEmbed, TextEmbed, VisionTokens
from unified_fm.models.encoders import Vision, mean_of

CONFIG = EncoderConfig(layers=1, width=4, heads=2, mlp_width=4, norm="pre", eps=1e-6)


def test_segments_of_a_pair_say_nothing_where_there_is_one_embedding():
    embed = TextEmbed(CONFIG, vocabulary=9, positions=8, segments=1)
    ids = jnp.array([[0, 5, 2, 2, 6, 2]])
    params = embed.init(jax.random.key(0), ids)
    pair = embed.apply(params, ids, jnp.array([[0, 0, 0, 0, 1, 1]]))
    np.testing.assert_array_equal(pair, embed.apply(params, ids))


def positions(ids, **fields):
    """The position that each token takes."""
    embed = TextEmbed(CONFIG, vocabulary=9, positions=20, **fields)
    return embed.apply(
        {"params": {}},
        jnp.array(ids),
        method=lambda module, ids: module._position_ids(ids),
    ).tolist()


def test_roberta_positions_count_real_tokens_wherever_the_pads_are():
    assert positions([[0, 5, 6, 2, 1, 1]]) == [[2, 3, 4, 5, 1, 1]]
    assert positions([[0, 1, 5, 1, 2, 6]]) == [[2, 1, 3, 1, 4, 5]]
    assert positions([[3, 3, 0, 5, 2]], pad_id=3) == [[3, 3, 4, 5, 6]]


def test_bert_positions_count_all_tokens():
    assert positions([[0, 1, 5, 1]], position_offset="bert") == [[0, 1, 2, 3]]


def test_text_embedding_is_the_normalised_sum_of_word_position_and_segment():
    rng = np.random.default_rng(0)
    embed = TextEmbed(CONFIG, vocabulary=9, positions=8, segments=2, position_offset="bert")
    word, position, segment = (rng.normal(size=(n, 4)).astype(np.float32) for n in (9, 8, 2))
    params = {
        "word": {"embedding": word},
        "position": {"embedding": position},
        "token_type": {"embedding": segment},
        "norm": {"scale": np.ones(4), "bias": np.zeros(4)},
    }
    ids, segments = np.array([[3, 7]]), np.array([[0, 1]])
    total = word[ids] + position[:2] + segment[segments]
    expected = (total - total.mean(-1, keepdims=True)) / total.std(-1, keepdims=True)
    np.testing.assert_allclose(embed.apply({"params": params}, ids, segments), expected, atol=1e-4)


@pytest.mark.parametrize("offset", ["roberta", "bert"])
def test_gradients_of_repeated_words_are_summed_in_float32(offset):
    """In bfloat16 a sum of 2,000 like terms stops at 256 of them."""
    config = EncoderConfig(layers=1, width=4, heads=2, mlp_width=4, dtype="bfloat16")
    fields = {"vocabulary": 9, "positions": 12, "position_offset": offset, "normalised": False}
    embed, rng = TextEmbed(config, **fields), np.random.default_rng(0)
    shapes = jax.eval_shape(embed.init, jax.random.key(0), jnp.zeros((1, 4), int))["params"]
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    ids = np.where(rng.random((500, 4)) < 0.9, 5, rng.integers(2, 9, (500, 4)))
    weights = jnp.asarray(1 + 0.1 * rng.normal(size=(500, 4, 4)), jnp.bfloat16)

    def loss(params):
        x = embed.apply({"params": params}, ids)
        assert x.dtype == jnp.bfloat16
        return (x * weights).astype(jnp.float32).sum(), x

    (_, x), found = jit(jax.value_and_grad(loss, has_aux=True))(params)
    places = np.broadcast_to(np.array(positions(ids.tolist(), position_offset=offset)), ids.shape)
    rows = {"word": ids, "position": places, "token_type": np.zeros_like(ids)}
    for name, which in rows.items():
        expected = np.zeros(params[name]["embedding"].shape)
        np.add.at(expected, which, np.asarray(weights, np.float64))
        # The products are rounded to bfloat16, their sums are not.
        np.testing.assert_allclose(found[name]["embedding"], expected, rtol=3e-4, atol=1e-6)

    low = jax.tree.map(lambda table: table.astype(jnp.bfloat16), params)  # tables rounded first
    total = low["word"]["embedding"][ids] + low["position"]["embedding"][places]
    np.testing.assert_array_equal(x, total + low["token_type"]["embedding"][0])


def test_too_long_a_text_is_refused_before_gathers_clamp_silently():
    embed = TextEmbed(CONFIG, vocabulary=9, positions=8)
    with pytest.raises(ValueError, match=r"7 tokens need 9 position embeddings .* is 8"):
        jax.eval_shape(embed.init, jax.random.key(0), jnp.zeros((1, 7), int))


def patch_embed(**fields):
    fields = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)} | fields
    return PatchEmbed(CONFIG, image_size=6, patch_size=2, **fields)


def test_patches_are_a_convolution_with_the_kernel():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(2, 2, 3, 4)).astype(np.float32), np.arange(4.0)
    expected = jax.lax.conv_general_dilated(
        image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = patch_embed().apply({"params": {"kernel": kernel, "bias": bias}}, image)
    np.testing.assert_allclose(found, expected.reshape(2, 9, 4) + bias, atol=1e-5)


def test_bytes_are_normalised_and_floats_are_not():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), np.uint8)
    module = patch_embed()
    params = module.init(jax.random.key(0), image)
    normalised = (image / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    np.testing.assert_allclose(
        module.apply(params, image), module.apply(params, normalised.astype(np.float32)), atol=1e-5
    )


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"images are \(8, 6, 3\), the model takes \(6, 6, 3\)"):
        jax.eval_shape(patch_embed().init, jax.random.key(0), jnp.zeros((1, 8, 6, 3)))


def test_masked_patches_show_the_mask_token_and_keep_their_position():
    module = VisionTokens(CONFIG, patches=3, absolute_positions=True)
    params = {
        "class_token": np.full((1, 1, 4), 7.0),
        "mask_token": np.full((1, 1, 4), 9.0),
        "position": np.arange(4.0)[None, :, None] * np.ones((1, 4, 4)) / 10,
    }
    found = module.apply(
        {"params": params},
        jnp.ones((1, 3, 4)),
        jnp.array([[False, True, False]]),
        method="tokens",
    )
    np.testing.assert_allclose(found[0, :, 0], [7.0, 1.1, 9.2, 1.3], rtol=1e-6)


def test_slot_0_is_the_mean_of_normalised_patches_or_the_class_token():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    mean, token = (Vision(CONFIG, patches=3, pool=pool) for pool in ("mean", "class"))
    params = jit(mean.init)(jax.random.key(0), x)
    pooled, classed = (jit(module.apply)(params, x) for module in (mean, token))
    np.testing.assert_allclose(pooled[:, 0], pooled[:, 1:].mean(1), atol=1e-6)
    np.testing.assert_allclose(pooled[:, 1:], classed[:, 1:], atol=1e-6)
    assert np.abs(pooled[:, 0] - classed[:, 0]).max() > 0.1
    with pytest.raises(ValueError, match="needs a class token"):
        module = Vision(CONFIG, patches=3, pool="class", has_class_token=False)
        jax.eval_shape(module.init, jax.random.key(0), x)


def test_mean_over_a_region_and_over_nothing():
    patches = jnp.arange(6.0).reshape(1, 3, 2).repeat(2, axis=0)
    mask = jnp.array([[True, False, True], [False, False, False]])
    assert mean_of(patches, mask).tolist() == [[2, 3], [0, 0]]
