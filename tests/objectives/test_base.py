"""Weighted means, and that micro-batches recombine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import stubs
from unified_fm.objectives.base import Output, weighted_mean
from unified_fm.plugins import build


def test_weighted_mean():
    mean, denominator = weighted_mean(jnp.array([1.0, 2, 6]), jnp.array([1.0, 0, 3]))
    assert (mean, denominator) == (19 / 4, 4)


def test_values_of_weight_0_may_be_anything_and_no_weight_is_no_loss():
    assert weighted_mean(jnp.array([jnp.nan, 2]), jnp.array([0.0, 1]))[0] == 2
    assert weighted_mean(jnp.array([jnp.inf, 2]), jnp.zeros(2)) == (0, 0)


def test_an_output_passes_through_jit():
    output = Output(loss=jnp.float32(1), denominator=jnp.float32(2), metrics={"a": jnp.float32(3)})
    doubled = jax.jit(lambda o: jax.tree.map(lambda x: 2 * x, o))(output)
    assert (doubled.loss, doubled.denominator, doubled.metrics) == (2, 4, {"a": 6})


@pytest.mark.parametrize("name", ["mlm", "imlm", "mim", "bbox"])
def test_micro_batches_recombine_exactly(name):
    """Unequal parts with unequal weights: sum(loss * denominator) / sum(denominator)."""
    objective = build("objectives", name)
    views, batch = stubs.make_views(6), stubs.make_batch(6)
    if name != "mim":  # Its two terms need equal weights: images are whole or absent.
        batch["weight"] = jnp.array([1.0, 2, 0, 0.5, 1, 3])
    whole, _ = stubs.run(objective, views, batch)
    parts = [
        stubs.run(objective, stubs.rows_of(views, rows), stubs.rows_of(batch, rows))[0]
        for rows in (slice(0, 2), slice(2, 6))
    ]
    for read in (lambda o: o.loss, *(lambda o, k=k: o.metrics[k] for k in whole.metrics)):
        total = sum(read(part) * part.denominator for part in parts)
        count = sum(part.denominator for part in parts)
        assert total / count == pytest.approx(read(whole), rel=1e-5)
    assert sum(part.denominator for part in parts) == pytest.approx(whole.denominator)
    assert np.isfinite(whole.loss) and whole.loss > 0
