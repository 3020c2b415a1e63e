"""Norms of trees, and that one pass finds what is not finite beside them."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unified_fm.optim import norms

_TREE = {"a": jnp.array([[3.0, 0.0]]), "b": {"c": jnp.array(4.0)}}


def test_the_norm_is_that_of_all_numbers_together():
    assert float(norms.norm(_TREE)) == 5.0
    assert float(norms.norm({})) == 0.0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_beside_a_tree_is_found(bad):
    fine = {"a": jnp.array([[1e38, -1e38]]), "b": {"c": jnp.array(0.0)}}
    assert float(norms.norm_if_finite(_TREE, [fine, fine])) == 5.0
    worse = {"a": jnp.array([[0.0, bad]]), "b": {"c": jnp.array(0.0)}}
    assert np.isnan(norms.norm_if_finite(_TREE, [fine, worse]))


def test_of_finite_numbers_whose_sum_is_not():
    huge = {"a": jnp.full((1, 2), 3e38), "b": {"c": jnp.array(3e38)}}
    assert float(norms.norm_if_finite(_TREE, [huge, huge])) == 5.0


def test_trees_like_the_parameters_are_found_in_an_optimizers_state():
    state = optax.adam(1.0).init(_TREE)
    alike, rest = norms.like(_TREE, (state, None))
    assert [jnp.shape(x["a"]) for x in alike] == [(1, 2), (1, 2)]  # both moments
    assert [x.dtype for x in rest] == [jnp.int32]  # the count


@pytest.mark.parametrize(("bad", "found"), [(0.0, 5.0), (np.inf, np.nan)])
def test_trees_that_lack_some_of_the_parameters_are_looked_at_in_the_same_pass(bad, found):
    nothing = optax.MaskedNode()
    part = {"a": nothing, "b": {"c": jnp.array(bad)}}
    mask = {"a": nothing, "b": {"c": jnp.array(1, jnp.uint8)}}  # that of gradient masking
    alike, rest = norms.like(_TREE, ({"mu": part}, mask))
    assert [x["b"]["c"].dtype for x in alike] == [jnp.float32]
    assert [x.dtype for x in rest] == [jnp.uint8]
    np.testing.assert_equal(float(norms.norm_if_finite(_TREE, alike)), found)
