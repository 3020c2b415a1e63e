"""What is dropped of rows: the rate that a byte can draw, and means that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_fm.models.rows import Rows, dropout, in_bytes

KEYS = tuple(jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize(
    ("rate", "drawn"),
    [(0.0, 0.0), (1e-4, 1 / 256), (0.1, 26 / 256), (0.5, 0.5), (0.999, 255 / 256)],
)
def test_the_rate_is_the_nearest_that_a_byte_draws(rate, drawn):
    assert in_bytes(rate) == drawn


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_bytes_keep_their_share(rate):
    kept = Rows((60, 4), keys=KEYS).keep_bytes(in_bytes(rate), (7, 429))  # 3,003: no words of four
    assert kept.shape == (64, 7, 429)
    share = 1 - in_bytes(rate)
    deviation = np.sqrt(share * (1 - share) / kept.size)
    assert abs(float(kept.mean()) - share) < 4 * deviation
    assert np.corrcoef(kept[:32].ravel(), kept[32:].ravel())[0, 1] < 0.02  # rows differ


def test_means_stay_and_the_gradient_is_that_of_the_kept():
    rows, x = Rows((64,), keys=KEYS[:1]), jnp.ones((64, 1000))
    y, pull = jax.vjp(lambda x: dropout(rows, x, 0.1), x)
    assert sorted(set(np.asarray(y).ravel().tolist())) == [0.0, pytest.approx(256 / 230)]
    assert float(y.mean()) == pytest.approx(1, abs=0.01)
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], y)


def test_bytes_do_not_depend_on_the_mesh():
    one, two = (Rows((4, 2), shards, keys=KEYS) for shards in (1, 2))
    for alone, again in zip(
        one.cut(one.keep_bytes(0.5, (5,))), two.cut(two.keep_bytes(0.5, (5,))), strict=True
    ):
        np.testing.assert_array_equal(alone, again)
