"""The refresh of the mask: exact, nested, the same anywhere, and outside the step."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.optim.merge import examples
from unified_fm.optim import masks
from unified_fm.optim.merge import igm

GROUPS = ("image", "text")


def merge_of(**options):
    steps = {"t0": 100, "t1": 900, "dt": 100}
    return igm.merge(**({"groups": GROUPS, "shared": ".*"} | steps | options))


def test_the_docstring_example():
    found = doctest.testmod(igm)
    assert (found.failed, found.attempted) == (0, 9)


def test_counts_are_exact_and_masks_nested_along_the_ramp():
    merge = merge_of()
    rng = np.random.default_rng(0)
    state = merge.init({"kernel": jnp.zeros((40, 25))})
    released, before = [], np.ones((40, 25))
    for step in range(0, 1000, 50):
        score = jnp.asarray(rng.uniform(size=(40, 25)), jnp.float32)
        state = merge.refresh(state._replace(score={"kernel": score}), step)
        mask = np.asarray(state.mask["kernel"])
        assert mask.dtype == np.uint8
        assert (mask <= before).all()
        assert int(state.churn[0]) == (mask != before).sum() or not merge.refresh.is_due(step)
        if merge.refresh.is_due(step):
            released.append(int((mask == 0).sum()))
            assert not state.score["kernel"].any()  # a new window
        before = mask
    assert released == [0, 165, 289, 377, 437, 473, 492, 499, 500]


def test_A9_refused_steps_do_not_prolong_the_warm_up():
    """The loop counts steps 1 and 2, whose update it threw away; the first mask comes before 3."""
    merge = merge_of(t0=3, t1=5, dt=1)
    params = {"kernel": jnp.ones((4, 4))}
    grads = {"image": {"kernel": jnp.full((4, 4), 2.0)}, "text": {"kernel": jnp.full((4, 4), 3.0)}}
    update = jax.jit(merge.update)
    state = merge.init(params)
    for step in range(6):
        state = merge.refresh(state, step)
        merged, new = update(grads, state)
        if step not in (1, 2):
            state = new
        values = set(np.unique(merged["kernel"]).tolist())
        # Each entry follows one group as soon as there is a mask, and the sum before.
        assert values == ({5.0} if step < 3 else {3.0} if step == 3 else {2.0, 3.0}), step
        assert int(state.count) == (1 if step < 3 else step + 1)


def test_ties_go_in_index_order():
    mask = masks.next_mask(jnp.ones((2, 3), jnp.uint8), jnp.zeros((2, 3)), 4)
    np.testing.assert_array_equal(mask, [[0, 0, 0], [0, 1, 1]])
    score = jnp.array([[2.0, 1.0, 1.0], [0.0, 1.0, 3.0]])
    already = jnp.array([[1, 1, 1], [1, 1, 0]], jnp.uint8)  # the highest score, but gone
    np.testing.assert_array_equal(masks.next_mask(already, score, 3), [[1, 0, 1], [0, 1, 0]])


@pytest.mark.slow
def test_the_same_mask_on_one_and_on_eight_devices():
    """Sharded over eight devices as the parameters are, and still so afterwards."""
    devices = jax.devices()
    if len(devices) < 8:
        pytest.skip("needs 8 simulated devices: XLA_FLAGS in tests/conftest.py")
    axis = jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((8,), ("fsdp",), devices=devices[:8], axis_types=(axis,))
    merge = merge_of(t0=1, t1=5, dt=2, scope="global")
    rng = np.random.default_rng(1)
    # Rounded, so that there are many ties.
    gradients = np.round(rng.normal(size=(6, 2, 16, 24)), 1).astype(np.float32)

    def train(place):
        params = {"a": place(gradients[0, 0]), "b": place(gradients[0, 1].T)}
        state = jax.jit(merge.init, out_shardings=None)(params)
        state = state._replace(
            mask=jax.tree.map(place, state.mask), score=jax.tree.map(place, state.score)
        )
        update = jax.jit(merge.update)
        for step, (first, second) in enumerate(gradients):
            state = merge.refresh(state, step)
            grads = {"a": place(first), "b": place(second.T)}
            _, state = update({"image": params, "text": grads}, state)
        return state

    single = train(jnp.asarray)
    spread = train(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp"))))
    assert spread.mask["a"].sharding.spec == PartitionSpec("fsdp")
    assert len(spread.mask["a"].addressable_shards) == 8
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), single, spread)
    assert int(sum(x.size - x.sum() for x in single.mask.values())) == 384


def test_a_run_resumed_in_the_middle_of_the_ramp_goes_on_as_if_nothing_had_happened():
    merge = merge_of(t0=2, t1=8, dt=2, reset_moments_on_flip=True)
    tx = optax.chain(merge, optax.adam(1e-2))
    params = examples.tree(examples.gradients(1)[0])

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def train(saved, steps):
        for number in steps:
            params, state = saved
            state = merge.refresh(state, number)
            grads = examples.grads_of(examples.gradients(2, seed=number))
            saved = step(params, state, grads)
        return saved

    start = (params, tx.init(params))
    straight = train(start, range(10))
    for split in (5, 6):  # between two refreshes, and just before one
        saved = jax.tree.map(np.asarray, train(start, range(split)))
        jax.tree.map(np.testing.assert_array_equal, straight, train(saved, range(split, 10)))


def test_moments_are_zeroed_exactly_where_entries_change_sides():
    merge = merge_of(t0=0, t1=2, dt=2, schedule="linear", reset_moments_on_flip=True)
    tx = optax.chain(merge, optax.masked(optax.adam(1e-2), {"kernel": True, "frozen": False}))
    params = {"kernel": jnp.ones((2, 4)), "frozen": jnp.ones((2, 2))}
    state = tx.init(params)
    grads = {"kernel": jnp.arange(1.0, 9.0).reshape(2, 4), "frozen": jnp.ones((2, 2))}
    for _ in range(2):
        _, state = tx.update({"image": grads, "text": grads}, state, params)
    after = merge.refresh(state, 2)
    adam, before = after[1].inner_state[0], state[1].inner_state[0]
    np.testing.assert_array_equal(after[0].mask["kernel"], [[0, 0, 0, 0], [1, 1, 1, 1]])
    for moment, old in ((adam.mu, before.mu), (adam.nu, before.nu)):
        np.testing.assert_array_equal(moment["kernel"][0], 0.0)
        np.testing.assert_array_equal(moment["kernel"][1], old["kernel"][1])
        assert (moment["kernel"][1] > 0).all()
    with pytest.raises(ValueError, match="no moments"):
        merge.refresh(optax.chain(merge, optax.sgd(0.1)).init(params), 2)


def test_where_no_refresh_is_due_the_state_comes_back_as_it_is():
    merge = merge_of()
    state = merge.init({"kernel": jnp.ones((2, 2))})
    assert [step for step in range(1000) if merge.refresh.is_due(step)] == [*range(100, 901, 100)]
    assert merge.refresh(state, 150) is state


def test_the_state_is_found_in_any_chain_or_missed_by_name():
    merge = merge_of()
    params = {"kernel": jnp.ones((2, 2))}
    tx = optax.chain(optax.chain(merge, optax.sgd(0.1)), optax.scale(1.0))
    assert int(masks.find(merge.refresh(tx.init(params), 900)).churn[0]) == 2
    with pytest.raises(ValueError, match=r"one state of igm, found 0 in tuple of \['TraceState"):
        merge.refresh(optax.sgd(0.1, momentum=0.9).init(params), 900)
    with pytest.raises(ValueError, match="found 2"):
        merge.refresh(optax.chain(merge, merge).init(params), 900)


def test_several_seeds_are_refreshed_at_once():
    merge = merge_of(t0=0, t1=2, dt=1, schedule="linear")
    scores = jnp.array([[[1.0, 2.0, 3.0, 4.0]], [[4.0, 3.0, 2.0, 1.0]]])
    states = [
        merge.init({"kernel": jnp.ones((1, 4))})._replace(score={"kernel": s}) for s in scores
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    refreshed = jax.vmap(lambda state: merge.refresh(state, 2))(stacked)
    np.testing.assert_array_equal(refreshed.mask["kernel"], [[[0, 0, 1, 1]], [[1, 1, 0, 0]]])


def test_the_step_does_not_sort():
    merge = merge_of()
    params = {"kernel": jnp.ones((4, 4))}
    step = jax.make_jaxpr(merge.update)({"image": params, "text": params}, merge.init(params))
    assert "sort" not in str(step)
    refresh = jax.make_jaxpr(lambda state: merge.refresh(state, 900))(merge.init(params))
    assert "sort" in str(refresh)


def test_a_ramp_in_shares_waits_for_the_length_of_the_run():
    merge = igm.merge(groups=GROUPS, shared=".*", t0=0.5, t1=1.0, dt=1)
    with pytest.raises(ValueError, match=r"t0=0.5 is a fraction of the run, and total_steps was"):
        merge.init({"kernel": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"t0=0.5 is a fraction"):
        _ = merge.refresh
    told = merge.for_run(6)
    assert [step for step in range(9) if told.refresh.is_due(step)] == [3, 4, 5, 6]
    assert told.for_run(100) is told  # the options have the last word
    assert merge_of(total_steps=2000).for_run(7).refresh.is_due(900)
    with pytest.raises(ValueError, match=r"ends at step 900, after the run: total_steps=7"):
        merge_of().for_run(7)
