"""Half of the kernels stay as they started, and all else is trained as ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ufm_ablation import half
from unified_fm.optim import build

PARAMS = {
    "encoder": {"kernel": jnp.full((4, 3), 2.0), "bias": jnp.ones(3)},
    "image_head": {"kernel": jnp.ones((3, 2))},
}


def trained(steps=3, **options):
    """The parameters after some steps with gradients of 1 and a decay that would move anything."""
    merge = half.merge(groups=["image"], shared="encoder/.*kernel", **options)
    settings = build.Settings(lr=0.1, weight_decay=0.5, clip=1.0)
    rules = {"weight_decay": "plain"}
    tx = build.build(PARAMS, merge=merge, settings=settings, total_steps=steps, rules=rules)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        grads = {"image": jax.tree.map(jnp.ones_like, params)}
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


def test_half_of_the_kernel_is_as_it_was():
    params, _ = trained()
    kernel = np.asarray(params["encoder"]["kernel"])
    assert (kernel == 2.0).sum() == 6
    assert (kernel < 1.5).sum() == 6  # the others go down by 0.1 a step, and decay
    assert np.all(np.asarray(params["encoder"]["bias"]) < 0.8)
    assert np.all(np.asarray(params["image_head"]["kernel"]) < 0.8)


def test_what_is_frozen_takes_no_part_in_the_clipping():
    _, state = trained(1)
    # Gradients of 1: 6 trained entries of the kernel, 3 of the bias, 6 of the head.
    assert build.merged_norm(state) == pytest.approx(15**0.5)


def test_the_draw_is_that_of_its_seed():
    def frozen(seed):
        return np.asarray(trained(1, seed=seed)[0]["encoder"]["kernel"]) == 2.0

    np.testing.assert_array_equal(frozen(3), frozen(3))
    assert (frozen(3) != frozen(4)).any()


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"share is 2; it must be in \[0, 1\]"):
        half.merge(groups=["image"], shared=".*", share=2)
    with pytest.raises(ValueError, match=r"'trunk/.*' matches no parameter"):
        half.merge(groups=["image"], shared="trunk/.*").init(PARAMS)
