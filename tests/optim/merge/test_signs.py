"""GradDrop and the AND-mask: entry by entry, by sign."""

import jax.numpy as jnp
import numpy as np

from tests.optim.merge import examples
from unified_fm.optim.merge import and_mask, graddrop

GROUPS = ("image", "text")


def rows_of(first, second):
    """Two gradients whose first shared entries are given, and which are 0 elsewhere."""
    rows = np.zeros((2, examples.SIZE))
    rows[0, : len(first)], rows[1, : len(second)] = first, second
    return rows


def test_graddrop_keeps_a_positive_sign_with_its_probability():
    """+3 against -1 keeps +3 three times in four, else -1; +1 against +2 is never dropped."""
    merge = graddrop.merge(groups=GROUPS)
    grads = {
        "image": jnp.tile(jnp.array([3.0, 1.0, -1.0, 1.0]), (2000, 1)),
        "text": jnp.tile(jnp.array([-1.0, 2.0, -2.0, -1.0]), (2000, 1)),
    }
    drawn = np.asarray(merge.update(grads, merge.init(grads["text"]))[0])  # f[2000 4]
    assert set(drawn[:, 0]) == {3.0, -1.0}
    assert (drawn[:, 1] == 3.0).all()
    assert (drawn[:, 2] == -3.0).all()
    assert set(drawn[:, 3]) == {1.0, -1.0}
    assert abs((drawn[:, 0] == 3.0).mean() - 0.75) < 0.03
    assert abs((drawn[:, 3] == 1.0).mean() - 0.5) < 0.035


def test_graddrop_of_equal_signs_and_with_full_leak_is_the_sum():
    rows = examples.gradients(2)
    full, _ = examples.run(graddrop.merge(groups=GROUPS, shared=examples.RULE, leak=1.0), rows)
    np.testing.assert_allclose(full, rows[:, : examples.SHARED].sum(0), rtol=1e-5, atol=1e-6)
    rows = np.abs(rows)
    same, _ = examples.run(graddrop.merge(groups=GROUPS, shared=examples.RULE), rows)
    np.testing.assert_allclose(same, rows[:, : examples.SHARED].sum(0), rtol=1e-5)


def test_graddrop_draws_anew_each_time_and_again_from_the_same_state():
    merge = graddrop.merge(groups=GROUPS, shared=examples.RULE)
    rows = examples.gradients(2, cosine=-0.9)
    first, state = examples.run(merge, rows)
    second, _ = examples.run(merge, rows, state)
    again, _ = examples.run(merge, rows)
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)


def test_and_mask_keeps_what_both_want_and_rescales_each_tensor():
    """Of the 12 entries of the first kernel 2 agree, so their mean is multiplied by 6."""
    rows = rows_of([1.0, -1.0, 2.0, 5.0], [3.0, -2.0, -4.0, 0.0])
    merged, _ = examples.run(and_mask.merge(groups=GROUPS, shared=examples.RULE), rows)
    np.testing.assert_allclose(merged[:4], [12.0, -9.0, 0.0, 0.0], rtol=1e-6)


def test_and_mask_of_equal_signs_or_without_threshold_is_the_mean():
    rows = examples.gradients(2)
    mean, _ = examples.run(and_mask.merge(groups=GROUPS, shared=examples.RULE, threshold=0.0), rows)
    np.testing.assert_allclose(mean, rows[:, : examples.SHARED].mean(0), rtol=1e-5, atol=1e-6)
    rows = np.abs(rows)
    same, _ = examples.run(and_mask.merge(groups=GROUPS, shared=examples.RULE), rows)
    np.testing.assert_allclose(same, rows[:, : examples.SHARED].mean(0), rtol=1e-5)


def test_and_mask_of_three_groups_can_ask_for_a_majority():
    """Two of three signs agree: |mean sign| is 1/3."""
    rows = np.concatenate([rows_of([1.0], [2.0]), rows_of([-1.5], [0.0])[:1]])
    for threshold, expected in [(1 / 3, 6.0), (0.5, 0.0)]:
        merge = and_mask.merge(
            groups=examples.names(3), shared="encoder/layer_00/kernel", threshold=threshold
        )
        merged, _ = merge.update(
            examples.grads_of(rows), merge.init(examples.tree(rows[0])), examples.tree(rows[0])
        )
        kernel = np.asarray(merged["encoder"]["layer_00"]["kernel"]).reshape(-1)
        # The 11 entries without a gradient agree on no sign, so 1 of 12 is kept: 0.5 * 12.
        np.testing.assert_allclose(kernel[0], expected, rtol=1e-6)
