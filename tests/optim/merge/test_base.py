"""What holds for every merge: the interface, the names, what is not shared, missing gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.merge import examples
from unified_fm import plugins
from unified_fm.optim.merge import base
from unified_fm.optim.merge.base import Groups, block_name

OPTIONS = {
    "static": {"weights": {"image": 1.0, "text": 2.0}},
    "igm": {"owner": "text", "t0": 1, "t1": 4, "dt": 1},
}
MERGES = sorted(name for name in plugins.names("optim.merge") if name != "sum")
OF_DOT_PRODUCTS = ("pcgrad", "gradvac", "mgda", "cagrad", "imtl_g", "nash", "aligned")
LOSSES = examples.losses_of([2.0, 3.0])


def build(name, **options):
    options = {"groups": ("image", "text"), "shared": examples.RULE} | options
    return plugins.build("optim.merge", name, **(OPTIONS.get(name, {}) | options))


@functools.cache
def default(name):
    """One transformation for all tests, which are then compiled once."""
    return build(name)


def test_the_menu_is_complete():
    assert set(MERGES) == {
        *("static", "alternate", "pcgrad", "gradvac", "mgda", "cagrad", "imtl_g", "nash"),
        *("aligned", "graddrop", "and_mask", "uncertainty", "gradnorm", "dwa", "igm"),
        "per_task_adam",
    }


@pytest.mark.parametrize("name", MERGES)
def test_every_merge_is_the_first_link_of_an_optax_chain(name):
    """Jitted, with plain arrays as state, and a state that survives NumPy."""
    tx = optax.chain(build(name), optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    params = examples.tree(examples.gradients(1, seed=9)[0])
    grads = examples.grads_of(examples.gradients(2))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads, state, params, losses=LOSSES)
        return optax.apply_updates(params, updates), state

    once = step(params, tx.init(params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(once))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(once)} <= {
        *("float32", "int32", "uint8", "uint32")  # no key that only JAX could read
    }
    assert jax.tree.structure(once) == jax.tree.structure((params, tx.init(params)))

    straight = step(*once)
    resumed = step(*jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), once))
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)


@pytest.mark.parametrize("name", MERGES)
def test_a_group_without_a_gradient_makes_no_nan(name):
    merge = default(name)
    for missing in [(0,), (1,), (0, 1)]:
        rows = examples.gradients(2)
        rows[list(missing)] = 0.0
        merged, state = examples.run(merge, rows, losses=LOSSES)
        merged, _ = examples.run(merge, rows, state, losses=LOSSES)
        assert np.isfinite(merged).all(), missing
    np.testing.assert_array_equal(merged, 0.0)


@pytest.mark.parametrize("name", ["imtl_g", "nash", "aligned"])
def test_a_group_without_a_gradient_takes_no_part(name):
    rows = examples.gradients(2)
    rows[0] = 0.0
    merged, _ = examples.run(default(name), rows, losses=LOSSES)
    text = rows[1, : examples.SHARED]
    length = 1.0 if name == "nash" else np.linalg.norm(text)
    np.testing.assert_allclose(merged, text / np.linalg.norm(text) * length, rtol=1e-5)


@pytest.mark.parametrize("exponent", [-83, 80])  # gradients near 1e-25 and 1e24
@pytest.mark.parametrize("name", OF_DOT_PRODUCTS)
def test_A9_the_length_of_all_gradients_does_not_matter(name, exponent):
    """Their squares are 0 or infinite in float32."""
    rows = examples.gradients(2, cosine=-0.4)
    scale = 2.0**exponent
    expected, _ = examples.run(default(name), rows)
    found, _ = examples.run(default(name), rows * scale)
    scale = 1.0 if name == "nash" else scale  # its result has a length of its own
    np.testing.assert_allclose(found / scale, expected, rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(expected) > 0.1


@pytest.mark.parametrize("name", MERGES)
def test_other_groups_in_the_gradients_are_refused_with_both_sides(name):
    merge = default(name)
    params = examples.tree(np.zeros(examples.SIZE))
    grads = {"image": params, "txt": params}
    with pytest.raises(ValueError, match=r"\['image', 'text'\].*\['image', 'txt'\]"):
        merge.update(grads, merge.init(params), params, losses=LOSSES)


@pytest.mark.parametrize("name", MERGES)
def test_a_shared_rule_that_matches_nothing_is_refused_with_the_paths(name):
    merge = build(name, shared="encodr/.*")
    with pytest.raises(ValueError, match=r"'encodr/\.\*' matches no parameter.*encoder/layer_00"):
        merge.init(examples.tree(np.zeros(examples.SIZE)))


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm", "dwa"])
def test_merges_by_losses_ask_for_them(name):
    with pytest.raises(ValueError, match=rf"{name} needs the losses"):
        examples.run(build(name), examples.gradients(2))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pcgrad", {"groups": ("text",)}, "pcgrad merges at least 2 groups.*found 1: text"),
        ("pcgrad", {"groups": ("a", "a")}, "distinct"),
        ("pcgrad", {"groups": "text"}, "distinct"),
        ("pcgrad", {"scope": "layers"}, "did you mean 'layer'"),
        ("mgda", {"groups": tuple("abcdefghi")}, "at most 8, found 9"),
        ("cagrad", {"groups": tuple("abcdefghi")}, "at most 8, found 9"),
        ("cagrad", {"conflict": 1.0}, r"in \[0, 1\), found 1.0"),
        ("igm", {"groups": ("image", "text", "pairs")}, "igm merges exactly 2 groups, found 3"),
        (
            "static",
            {"weights": {"image": 1.0}},
            r"\['image', 'text'\], the weights .*\['image'\]",
        ),
        ("alternate", {"order": ("image", "txt")}, r"\['image', 'txt'\].*\['image', 'text'\]"),
        ("dwa", {"window": 0}, "positive, found 2.0 and 0"),
        ("gradvac", {"rate": 0.0}, "found 0.0"),
        ("graddrop", {"leak": 2}, "found 2"),
        ("and_mask", {"threshold": 2}, "found 2"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize(
    ("scope", "bounds"),
    [("model", [0, 36]), ("layer", [0, 16, 32, 36]), ("tensor", [0, 12, 16, 32, 36])],
)
def test_dot_products_per_block(scope, bounds):
    groups = Groups(names=("image", "text"), shared=examples.RULE, merge="test")
    rows = examples.gradients(2)
    grams = groups.gram(groups.ordered(examples.grads_of(rows)), scope)
    found = sorted(float(dots[0, 1] * unit**2) for dots, unit in zip(*grams, strict=True))
    expected = sorted(np.vdot(rows[0, a:b], rows[1, a:b]) for a, b in itertools.pairwise(bounds))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_A9_gradients_near_1e_25_have_dot_products():
    groups = Groups(names=("image", "text"), shared=examples.RULE, merge="test")
    rows = examples.gradients(2)
    plain, tiny = (
        groups.gram(groups.ordered(examples.grads_of(x))) for x in (rows, rows * 2.0**-83)
    )
    np.testing.assert_array_equal(plain.dots, tiny.dots)  # not a digit changes
    np.testing.assert_array_equal(plain.unit * 2.0**-83, tiny.unit)


def test_names_of_blocks():
    assert block_name("encoder/layer_07/self_attn/query/kernel") == "encoder/layer_07"
    assert block_name("student/encoder/layer_07/kernel") == "student/encoder/layer_07"
    assert block_name("text_embed/word/embedding") == "text_embed"
    assert block_name("encoder/layer_07/bias", "tensor") == "encoder/layer_07/bias"


def test_any_optax_transformation_is_a_merge_that_needs_nothing_of_the_run():
    plain = base.as_merge(optax.identity(), "optim.merge.mine")
    assert (plain.refresh, plain.for_run(7)) == (None, plain)
    update, _ = plain.update({"a": jnp.ones(2)}, plain.init({}), None, losses={"a": 1.0})
    np.testing.assert_array_equal(update["a"], 1)
    assert base.as_merge(plain, "mine") is plain
    with pytest.raises(TypeError, match=r"optim.merge.mine returned None: a merge is an optax tr"):
        base.as_merge(None, "optim.merge.mine")


@pytest.mark.parametrize("name", [*MERGES, "sum"])
def test_every_merge_of_the_library_says_what_it_needs_of_the_run(name):
    made = build(name).for_run(100)
    assert isinstance(made, base.Merge)
    assert (made.refresh is not None) == (name == "igm")
