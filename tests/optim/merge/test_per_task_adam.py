"""Per-task Adam: AdamW for one group, its NumPy form for two, and one Adam only for each leaf."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.merge import examples
from unified_fm import plugins, sharding
from unified_fm.optim import build, moments, norms
from unified_fm.optim.merge import igm, per_task_adam

LOSSES = {"image": 0.0, "text": 0.0}
CONSTANT = {"name": "constant"}


def merge_of(count=2, shared=examples.RULE, **options):
    return per_task_adam.merge(groups=examples.names(count), shared=shared, **options)


def chain_of(merge, *, rules=None, **settings):
    given = {"lr": 0.1, "clip": 1.0, "weight_decay": 0.0, "schedule": CONSTANT} | settings
    params = examples.tree(np.zeros(examples.SIZE))
    return build.build(
        params, merge=merge, settings=build.Settings(**given), total_steps=10, rules=rules
    )


def trained(tx, steps):
    """Parameters and state after an update with each of `steps`, rows of the groups' gradients."""
    params = examples.tree(np.linspace(-1, 1, examples.SIZE))
    state = tx.init(params)
    for rows in steps:
        updates, state = tx.update(examples.grads_of(rows), state, params, losses=LOSSES)
        params = optax.apply_updates(params, updates)
    return params, state


def test_the_example_in_the_docstring_runs():
    found = doctest.testmod(per_task_adam)
    assert (found.failed, found.attempted) == (0, 11)


def test_one_group_is_the_ordinary_chain_to_the_last_bit():
    """Clip, Adam, decay, rates, a schedule with warm-up and a frozen tensor: as with `sum`."""
    rules = {
        "lr_scale": [("head/.*", 2.0), (".*", 1.0)],
        "frozen": [("encoder/layer_01/.*", True), (".*", False)],
    }
    how = {"rules": rules, "weight_decay": 0.1, "b2": 0.95, "eps": 1e-6}
    how["schedule"] = {"name": "cosine", "warmup": 2}
    steps = [examples.gradients(1, seed=seed) * (seed + 1) for seed in range(3)]
    plain = plugins.build("optim.merge", "sum", groups=["image"])
    expected, one = trained(chain_of(plain, **how), steps)
    found, own = trained(chain_of(merge_of(1, shared=".*"), **how), steps)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_allclose(build.merged_norm(own), build.merged_norm(one), rtol=1e-6)
    frozen = examples.tree(np.linspace(-1, 1, examples.SIZE))["encoder"]["layer_01"]
    np.testing.assert_array_equal(found["encoder"]["layer_01"]["kernel"], frozen["kernel"])
    assert not any("layer_01" in path for path in moments.paths(own))  # nor has it a memory


def by_hand(steps, *, lr, b1, b2, eps, clip, decay):
    """Vectors f64[40]: the shared part by the rule, the head by AdamW behind the sum."""
    p = np.linspace(-1, 1, examples.SIZE)
    shared = np.arange(examples.SIZE) < examples.SHARED
    decayed = np.concatenate([np.full(12, 1), np.full(4, 0), np.full(16, 1), np.zeros(4), [1] * 4])
    m, v = np.zeros((2, 3, examples.SIZE))  # image, text, and the chain's own
    for t, rows in enumerate(steps, start=1):
        step = np.zeros(examples.SIZE)
        for k, gradient in enumerate([*np.where(shared, rows, 0), rows.sum(0) * ~shared]):
            gradient = gradient * min(1, clip / max(np.linalg.norm(gradient), 1e-30))
            m[k] = b1 * m[k] + (1 - b1) * gradient
            v[k] = b2 * v[k] + (1 - b2) * gradient**2
            direction = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            step += direction / np.sqrt(2) if k < 2 else direction
        p = p - lr * (step + decay * decayed * p)
    return p


def test_two_groups_over_four_steps_are_the_form_in_numpy():
    """One step has no gradient of the first group, two have none of the second."""
    steps = [examples.gradients(2, seed=seed) * [[0.1], [3.0]] for seed in range(4)]
    steps[0][1] = steps[1][1] = steps[2][0] = 0
    numbers = {"lr": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-6, "clip": 0.5}
    found, state = trained(chain_of(merge_of(), weight_decay=0.2, **numbers), steps)
    np.testing.assert_allclose(examples.flat(found), by_hand(steps, decay=0.2, **numbers), 3e-5)
    # What is logged: all that went into a clip, as if it lay at right angles.
    last, shared = steps[-1], examples.SHARED
    parts = [last[0, :shared], last[1, :shared], last[:, shared:].sum(0)]
    np.testing.assert_allclose(
        build.merged_norm(state), np.linalg.norm(np.concatenate(parts)), rtol=1e-6
    )


def test_options_go_before_the_numbers_of_the_optimizer():
    rows = examples.gradients(2)
    for given, behind in (({"eps": 1.0}, {}), ({}, {"eps": 1.0})):
        found, _ = trained(chain_of(merge_of(**given), clip=None, **behind), [rows])
        start = np.linspace(-1, 1, examples.SIZE)
        moved = (examples.flat(found) - start)[: examples.SHARED]
        own = rows[:, : examples.SHARED]
        np.testing.assert_allclose(
            moved, -0.1 * (own / (np.abs(own) + 1)).sum(0) / np.sqrt(2), rtol=2e-3, atol=1e-6
        )


def test_a_group_without_a_gradient_takes_no_part():
    rows = examples.gradients(2)
    rows[1] = 0.0
    steps, _ = examples.run(merge_of(), rows)
    alone, _ = examples.run(merge_of(1), rows[:1])
    np.testing.assert_allclose(steps, alone / np.sqrt(2), rtol=1e-6)


def test_a_second_adam_behind_it_is_refused():
    params = examples.tree(np.zeros(examples.SIZE))
    merge = merge_of()
    for link in (optax.scale_by_adam(), optax.adamw(0.1), optax.scale_by_rms(), optax.trace(0.9)):
        with pytest.raises(ValueError, match=r"4 parameters have .* behind the merge.*encoder/lay"):
            moments.refuse_second(optax.chain(merge, link).init(params))
    heads = jax.tree.map(lambda own: not own, merge.has_adam(params))
    moments.refuse_second(
        optax.chain(merge, optax.masked(optax.adam(0.1), heads), optax.sgd(0.1)).init(params)
    )
    chain_of(merge).init(params)  # that of the library keeps its own off
    # But it cannot see into a chain that stands for a merge.
    with pytest.raises(ValueError, match="second one behind the merge, in ScaleByAdamState"):
        chain_of(optax.chain(merge, optax.scale(2.0))).init(params)
    # Adams in a row are no business of ours where no group has its own.
    moments.refuse_second(optax.chain(optax.adam(0.1), optax.adam(0.1)).init(params))


def test_the_state_lies_where_its_parameters_lie():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    params = examples.tree(np.zeros(examples.SIZE))
    where = sharding.params_shardings(mesh, params, "fsdp")
    state = jax.eval_shape(chain_of(merge_of()).init, params)
    found = sharding.like_params(mesh, state, params, where)
    for group in ("image", "text"):
        adam = found[0].groups[group].inner_state[1]
        for average in (adam.mu, adam.nu):
            assert average["encoder"] == where["encoder"]
            assert isinstance(average["head"]["kernel"], optax.MaskedNode)
        assert adam.count.spec == jax.sharding.PartitionSpec()


def test_its_state_is_looked_at_for_what_is_not_finite():
    params = examples.tree(np.zeros(examples.SIZE))
    state = chain_of(merge_of()).init(params)
    alike, rest = norms.like(params, state)
    assert len(alike) == 6  # two moments of two groups and of the heads
    assert all(x.ndim == 0 for x in rest)  # counts and norms
    bad = jax.tree.map(lambda x: x, alike)
    bad[0]["encoder"]["norm"]["scale"] = bad[0]["encoder"]["norm"]["scale"].at[2].set(jnp.nan)
    assert np.isfinite(norms.norm_if_finite(params, alike))
    assert np.isnan(norms.norm_if_finite(params, bad))


@pytest.mark.slow  # the choice of a mask is compiled
def test_masks_of_igm_know_its_moments_as_those_of_any_adam():
    """Two merges in one chain: an entry that changes sides is forgotten by both groups."""
    options = {"groups": ("image", "text"), "shared": ".*", "t0": 0, "t1": 2, "dt": 2}
    masking = igm.merge(schedule="linear", reset_moments_on_flip=True, **options)
    own = per_task_adam.merge(groups=("image", "text"))
    params = {"kernel": jnp.ones((2, 4))}
    grads = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4)}
    both = {"image": grads, "text": grads}
    state = (masking.init(params), own.init(params))
    state = (masking.update(both, state[0], params)[1], own.update(both, state[1], params)[1])
    after = masking.refresh(state, 2)
    np.testing.assert_array_equal(after[0].mask["kernel"], [[0, 0, 0, 0], [1, 1, 1, 1]])
    for group in ("image", "text"):
        adam = after[1].groups[group].inner_state[1]
        for average in (adam.mu, adam.nu):
            assert (average["kernel"][0] == 0).all()
            assert (average["kernel"][1] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0}, "clip must be above 0, found 0"),
        ({"eps": -1.0}, "eps must be above 0, found -1.0"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), found 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), found -0.1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"per_task_adam: {message}"):
        merge_of(**options)
