"""mim: squared error towards the encoder's own unmasked output."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import stubs
from unified_fm.objectives.mim import Objective


def run(objective, views, batch):
    return stubs.run(objective, views, batch)[0]


def parts(student, target, batch):
    """(patches, pooled) in NumPy, as published: means over all elements."""
    square = np.square(np.asarray(student) - np.asarray(target))
    return square[:, 1:][np.asarray(batch["patch_mask"])].mean(), square[:, 0].mean()


def test_masked_patches_plus_the_pooled_slot():
    views, batch = stubs.make_views(), stubs.make_batch()
    patches, pooled = parts(views.image_masked, views.image, batch)
    assert run(Objective(), views, batch).loss == pytest.approx(patches + pooled, rel=1e-5)
    alone = run(Objective(pooled=False), views, batch)
    assert alone.loss == pytest.approx(patches, rel=1e-5)
    assert alone.denominator == 8  # 4 images of 2 masked patches


def test_the_target_has_no_gradient():
    views, batch = stubs.make_views(), stubs.make_batch()

    def loss(target, student):
        return Objective()(None, views.replace(image=target, image_masked=student), batch).loss

    _, (to_target, to_student) = stubs.gradient(
        loss, views.image, views.image_masked, argnums=(0, 1)
    )
    assert not to_target.any()
    visible = ~np.pad(batch["patch_mask"], ((0, 0), (1, 0)), constant_values=True)
    assert not to_student[visible].any()
    assert to_student[~visible].all()


def test_a_moving_average_can_be_the_target():
    views, batch = stubs.make_views(), stubs.make_batch()
    other = stubs.make_views(seed=1).image
    batch["teacher"] = {"ema": {"image": other}}
    expected = sum(parts(views.image_masked, other, batch))
    assert run(Objective(target="ema"), views, batch).loss == pytest.approx(expected, rel=1e-5)


def test_a_normalised_target_has_mean_0_and_variance_1():
    views, batch = stubs.make_views(), stubs.make_batch()
    image = np.asarray(views.image)
    target = (image - image.mean(-1, keepdims=True)) / image.std(-1, keepdims=True)
    expected = sum(parts(views.image_masked, target, batch))
    found = run(Objective(normalise_target=True), views, batch).loss
    assert found == pytest.approx(expected, rel=1e-4)
    collapsed = views.replace(image=jnp.ones_like(views.image))
    assert np.isfinite(run(Objective(normalise_target=True), collapsed, batch).loss)


def test_padded_images_count_nowhere():
    views, batch = stubs.make_views(), stubs.make_batch()
    real = jnp.array([0, 2])
    expected = run(Objective(), stubs.rows_of(views, real), stubs.rows_of(batch, real))
    batch["weight"] = jnp.array([1.0, 0, 1, 0])
    poisoned = views.replace(image_masked=views.image_masked.at[1].set(jnp.nan))
    found = run(Objective(), poisoned, batch)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.denominator == expected.denominator == 4


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match=r"mim.target is 'teacher'; Possible: self, ema"):
        Objective(target="teacher")
