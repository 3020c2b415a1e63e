"""What all leaves wait for is computed once, not in the program of every leaf."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_fm.optim.settled import settled

LEAVES = 24


@pytest.mark.parametrize("x", [jnp.float32(0.3), jnp.float32(jnp.nan), jnp.bool_(True)])
def test_the_number_is_the_same(x):
    found = jax.jit(settled)(x)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, x)


def test_the_gradient_goes_through():
    assert jax.grad(lambda x: settled(x**2))(3.0) == 6.0


def _large_fusions(whole):
    """How many of the compiled fusions read more than half of the leaves."""

    def kept(tree):
        good = whole(jnp.stack([jnp.isfinite(x).all() for x in tree.values()]).all())
        return {name: jnp.where(good, 2 * x, x) for name, x in tree.items()}

    tree = {f"{n:02d}": jnp.ones((n + 2, 3)) for n in range(LEAVES)}
    text = jax.jit(kept).lower(tree).compile().as_text()
    fusions = re.findall(r" fusion\((.*?)\), kind", text)
    return sum(inputs.count("%") > LEAVES / 2 for inputs in fusions)


def test_no_leaf_looks_at_all_the_others():
    assert _large_fusions(settled) <= 1
    assert _large_fusions(lambda x: x) > LEAVES / 2  # without, each does
