"""Texts go through an encoder without their padding, and nothing of it is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_xfm
from tests.test_joint import DROPPING, XFM, assert_same, run, streams_of
from unified_fm.models import unpadding
from unified_fm.models.rows import Rows, dropout

HELD = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]], bool)  # two parts of two rows


def through(x, rows):
    """Tells in its result whether it saw tokens or all places."""
    return x + (100 if rows.unpadding is not None else 0)


def test_what_fits_goes_as_tokens():
    x = jnp.arange(12.0).reshape(4, 3, 1)
    found = unpadding.either(through, x, Rows((4,), shards=2), HELD, 0.7)
    assert found[..., 0].tolist() == [[100, 101, 0], [103, 0, 0], [106, 107, 108], [109, 0, 0]]


def test_what_does_not_fit_goes_as_all_places():
    held = jnp.arange(10) < jnp.array([[9], [1]])
    x = jnp.ones((2, 10, 1))
    rows = Rows((2,), shards=2)
    assert unpadding.either(through, x, rows, held, 0.5).max() == 1  # 9 of 10 places, room for 8
    held = jnp.arange(10) < jnp.array([[8], [1]])
    assert unpadding.either(through, x, rows, held, 0.5).max() == 101


def test_the_gradient_of_a_look_up_is_a_look_up():
    x = jax.random.normal(jax.random.key(0), (4, 3, 5))
    weights = jax.random.normal(jax.random.key(1), (4, 3, 5))

    def squares(x, rows):
        return jnp.square(x)

    def loss(x):
        found = unpadding.either(squares, x, Rows((4,), shards=2), HELD, 0.5)
        return jnp.where(HELD[..., None], found * weights, 0).sum()

    wanted = jnp.where(HELD[..., None], 2 * x * weights, 0)
    np.testing.assert_allclose(jax.grad(loss)(x), wanted, rtol=1e-6)
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(loss))(x))


@pytest.mark.parametrize("shape", [None, (1, 1)])
def test_the_same_is_dropped_of_tokens_as_of_rows(shape):
    rows = Rows((4,), shards=2, keys=(jax.random.key(0),))
    x = jnp.ones((4, 3, 6))

    def dropped(x, rows):
        return dropout(rows, x, 0.5, shape)

    found = unpadding.either(dropped, x, rows, HELD, 0.5)
    np.testing.assert_array_equal(found, jnp.where(HELD[..., None], dropped(x, rows), 0))
    if shape is None:
        assert 0.2 < (found[HELD] == 0).mean() < 0.8


@pytest.mark.nightly  # compiles X-FM twice
@pytest.mark.parametrize("loop", ["scan", "unrolled"])
def test_losses_and_gradients_are_those_of_all_places(loop):
    batches = tiny_xfm.make_batches()
    for name in ("text", "pairs", "regions"):
        length = 4 + jnp.arange(4) % 2  # of 6 places; masked words are of the first 4
        batches[name]["text_mask"] = jnp.arange(6) < length[:, None]
    batches["regions"]["image_index"] = jnp.zeros(4, int)

    def net(unpad):
        texts = tiny_xfm.LAYER | DROPPING | {"layers": 2, "unpad": unpad}
        return tiny_xfm.model(text=texts, fusion=texts, layer_loop=loop)

    given = tiny_xfm.params(net(1.0)), batches, streams_of(XFM, pairs=2, regions=2)
    assert_same(run(net(0.8), *given), run(net(1.0), *given))
