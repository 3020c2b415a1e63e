"""The products of a step, each by itself."""

import jax
import jax.numpy as jnp
import pytest

from unified_fm.bench import machine, products, traced


def step(x, w):
    """Five times 4 x 8 by 8 x 8, one or two more by a branch, and attention's scores."""
    y, _ = jax.lax.scan(lambda c, _: (jax.nn.relu(c @ w), None), x, None, length=5)
    y = jax.lax.cond(y.sum() > 0, lambda y: y @ w @ w, lambda y: y @ w, y)
    heads = y.reshape(4, 2, 4)
    return jnp.einsum("tnh,snh->nts", heads, heads)


TRACE = jax.make_jaxpr(step)(jnp.ones((4, 8)), jnp.ones((8, 8)))


def test_each_kind_is_counted_as_often_as_it_is_computed():
    found = {str(product): (number, product.flops) for product, number in
             products.counted(TRACE).items()}  # fmt: skip
    assert found == {
        "4x8 by 8x8 over 8": (7, 2 * 4 * 8 * 8),
        "4x2x4 by 4x2x4 over 4, for each of 2": (1, 2 * 2 * 4 * 4 * 4),
    }


def test_together_they_are_the_flops_of_the_step():
    counted = products.counted(TRACE)
    assert sum(p.flops * n for p, n in counted.items()) == traced.flops(TRACE)


def test_what_they_take_is_that_of_each_as_often(monkeypatch):
    monkeypatch.setattr(machine, "timed", lambda run: (run(), 0.5)[1])
    first, second, *table = products.alone(products.counted(TRACE), 8.0, 1e3)
    assert first.startswith("alone         4.00 s, 50% of the step: 0 GFLOP")
    assert first.endswith("at 96% of the product")  # 7 * 512 + 256 in 4 s
    assert "times" in second
    assert [line.split()[:3] for line in table] == [["3.50", "7", "102%"], ["0.50", "1", "51%"]]


@pytest.mark.slow
def test_they_run_in_every_dtype():
    half = jax.make_jaxpr(step)(jnp.ones((4, 8), "bfloat16"), jnp.ones((8, 8), "bfloat16"))
    assert "GFLOP" in products.alone(products.counted(half), 1.0, 1e9)[0]
