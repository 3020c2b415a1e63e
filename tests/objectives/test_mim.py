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


def test_a_frozen_teacher_can_be_the_target():
    """In float64, patch by patch; the pooled slot is compared with the teacher's."""
    views, batch = stubs.make_views(), stubs.make_batch()
    states = np.asarray(stubs.make_views(seed=1).image, np.float64)
    student, mask = np.asarray(views.image_masked, np.float64), np.asarray(batch["patch_mask"])
    own = [
        np.mean((student[row, 1 + patch] - states[row, 1 + patch]) ** 2)
        for row, patch in np.argwhere(mask)
    ]
    pooled = [np.mean((student[row, 0] - states[row, 0]) ** 2) for row in range(4)]
    objective = Objective(target="teacher:old")
    assert objective.lessons == {"old": ("image_hidden", "hidden_mse", 1.0)}
    assert dict(objective.reads) == {"image_masked": True}

    def loss(states, student):
        taught = {"teacher": {"old": {"image_hidden": states}}}
        return objective(None, views.replace(image=None, image_masked=student), batch | taught).loss

    given = jnp.float32(states), views.image_masked
    value, (to_teacher, to_student) = stubs.gradient(loss, *given, argnums=(0, 1))
    assert value == pytest.approx(np.mean(own) + np.mean(pooled), rel=1e-5)
    assert not to_teacher.any()
    assert to_student[:, 1:][mask].all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "mim: no teacher 'old' teaches this stream; those that do: none"),
        (
            {"old": {"image": np.zeros((4, 7))}},
            "mim: target='teacher:old' needs 'image_hidden' of the teacher 'old', which gives im",
        ),
        (
            {"old": {"image_hidden": np.zeros((4, 7, 6))}},
            "mim: the teacher 'old' has 6 numbers in a state (width), the student 4 "
            "(target='teacher:old'): they must be equal",
        ),
        (
            {"old": {"image_hidden": np.zeros((4, 5, 4))}},
            "mim: the teacher 'old' has 5 tokens, the student 7",
        ),
    ],
)
def test_a_teacher_that_is_not_there_or_of_another_shape(given, message):
    batch = stubs.make_batch() | {"teacher": given}
    with pytest.raises(ValueError) as error:
        Objective(target="teacher:old")(None, stubs.make_views(), batch)
    assert message in str(error.value)


@pytest.mark.parametrize("target", ["teacher", "teacher:", "old"])
def test_an_unknown_target_is_refused(target):
    wanted = f"mim.target is {target!r}; .*Possible: self, ema, teacher:NAME"
    with pytest.raises(ValueError, match=wanted):
        Objective(target=target)
