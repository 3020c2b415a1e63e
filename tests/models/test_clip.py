"""CLIP: what a text sees, where it ends, and its features. Values: tests/convert (golden files)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_fm.models import clip, layers

SIZES = {"layers": 1, "width": 8, "heads": 2, "mlp_width": 16}
MODEL = clip.Model(
    vocab_size=30,
    end_id=20,
    image_size=8,
    patch_size=4,
    projection_dim=5,
    text=SIZES,
    vision=SIZES,
    max_positions=6,
)
TEXT = np.array([[3, 4, 20, 0, 0, 0], [5, 25, 6, 7, 20, 20]])
BATCH = {
    "text": TEXT,
    "text_mask": np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool),
    "image": np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3),
}


@pytest.fixture(scope="module")
def variables():
    return jax.jit(functools.partial(MODEL.init, method=lambda net, b: net.similarity(net(b))))(
        jax.random.key(0), BATCH
    )


@pytest.fixture(scope="module")
def encode():
    return jax.jit(MODEL.apply)


def test_parameters_have_the_names_of_the_conversion_table(variables):
    params = variables["params"]
    assert set(params) == {
        "text_embed",
        "text",
        "patch_embed",
        "vision",
        "text_proj",
        "image_proj",
        "logit_scale",
    }
    assert set(params["text_embed"]) == {"word", "position"}
    assert set(params["patch_embed"]) == {"kernel"}
    assert set(params["vision"]) == {"class_token", "position", "pre_norm", "norm", "layer_00"}
    np.testing.assert_allclose(np.exp(-params["logit_scale"]), 0.07, rtol=1e-6)


def test_a_state_depends_on_what_came_before_only(variables, encode):
    before = encode(variables, BATCH).text
    changed = TEXT.copy()
    changed[1, 3] = 9
    after = encode(variables, {**BATCH, "text": changed}).text
    np.testing.assert_array_equal(after[1, 1:4], before[1, 1:4])
    assert (jnp.abs(after[1, 4:] - before[1, 4:]).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize(("end_id", "slots"), [(20, (2, 4)), (None, (2, 1))])
def test_slot_0_is_the_first_end_token(variables, end_id, slots):
    views = MODEL.clone(end_id=end_id).apply(variables, BATCH)
    assert views.text.shape == (2, 7, 8)
    for row, slot in enumerate(slots):
        np.testing.assert_array_equal(views.text[row, 0], views.text[row, 1 + slot])


def test_similarity_is_the_scaled_cosine(variables):
    def features(net):
        views = net(BATCH)
        return net.text_feature(views), net.image_feature(views), net.similarity(views)

    text, image, scores = MODEL.apply(variables, method=features)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(scores, np.asarray(text) @ np.asarray(image).T / 0.07, rtol=1e-4)


def test_quick_gelu_at_known_points():
    expected = [-2 / (1 + np.exp(3.404)), 0, 1 / (1 + np.exp(-1.702))]
    np.testing.assert_allclose(layers.gelu(jnp.array([-2.0, 0, 1]), "quick"), expected, rtol=1e-6)
