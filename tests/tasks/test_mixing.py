"""Mixup, cutmix and erasing: the arithmetic, against NumPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from unified_fm.tasks import _mixing

SIZE = 8


@pytest.fixture(scope="module")
def batches():
    """Of 64 keys: a batch of four even images 0, 1, 2, 3 and its targets, mixed in three ways."""
    images = jnp.broadcast_to(jnp.arange(4.0)[:, None, None, None], (4, SIZE, SIZE, 3))
    targets = _mixing.soft(jnp.arange(4), 4, 0.0)

    def mix(key, switch):
        return _mixing.mixed(key, images, targets, mixup=0.8, cutmix=1.0, switch=switch)

    ways = {"mixup": 0.0, "cutmix": 1.0, "both": 0.5}
    switches = jnp.repeat(jnp.array(list(ways.values())), 64)
    keys = jnp.tile(jax.random.split(jax.random.key(0), 64), 3)
    found = jax.device_get(jit(jax.vmap(mix))(keys, switches))  # compiled once
    return {
        name: tuple(each[64 * k : 64 * (k + 1)] for each in found) for k, name in enumerate(ways)
    }


@pytest.mark.parametrize("numbers", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_what_is_0_never_happens(numbers, monkeypatch):
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jnp.float32(0.5))  # quick to compile
    images, targets = (
        jnp.arange(4.0).reshape(4, 1, 1, 1) + jnp.zeros((4, SIZE, SIZE, 3)),
        jnp.eye(4),
    )
    switch = 1.0 if numbers["mixup"] else 0.0  # which asks for the other one
    mix = jit(lambda key: _mixing.mixed(key, images, targets, switch=switch, **numbers)[0])
    blended = float(np.asarray(mix(jax.random.key(0)))[0, 0, 0, 0])
    assert (blended == 1.5) == bool(numbers["mixup"])  # half of image 0, half of image 3


def test_mixup_blends_an_image_with_the_one_at_its_place_from_the_end(batches):
    images, targets = batches["mixup"]
    share = targets[:, 0, 0]  # of the first image in itself
    assert 0 <= share.min() < 0.2 and 0.8 < share.max() <= 1  # Beta(0.8, 0.8)
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    for place, other in ((0, 3), (1, 2)):
        np.testing.assert_allclose(targets[:, place, other], 1 - share, atol=1e-6)
        wanted = share * place + (1 - share) * other
        np.testing.assert_allclose(images[:, place, 0, 0, 0], wanted, atol=1e-5)
    assert (images.std(axis=(2, 3, 4)) < 1e-5).all()  # blended everywhere alike


def test_cutmix_counts_the_pixels_that_are_left(batches):
    images, targets = batches["cutmix"]
    assert set(np.unique(images)) == {0.0, 1.0, 2.0, 3.0}  # pasted, never blended
    kept = (images[:, 0, :, :, 0] == 0).mean(axis=(1, 2))
    np.testing.assert_allclose(targets[:, 0, 0], kept, atol=1e-6)
    np.testing.assert_allclose(targets[:, 1, 2], 1 - kept, atol=1e-6)
    pasted = images[:, 0, :, :, 0] == 3
    for one in pasted:  # a box
        rows, columns = one.any(axis=1), one.any(axis=0)
        np.testing.assert_array_equal(one, rows[:, None] & columns[None])


def test_either_happens_to_a_batch_about_half_of_the_time(batches):
    images, _ = batches["both"]
    blended = [not set(np.unique(one)) <= {0.0, 1.0, 2.0, 3.0} for one in images]
    assert 20 < sum(blended) < 44


def test_a_box_that_sticks_out_leaves_more_than_was_asked_for():
    share = 0.25  # sides of 0.866 * 8 -> 6 pixels, an area of 36
    keys = jax.random.split(jax.random.key(1), 128)
    find = jax.vmap(lambda key: _mixing.cut_box(key, jnp.float32(share), SIZE, SIZE))
    (top, bottom, left, right), kept = jax.device_get(jit(find)(keys))
    area = (bottom - top) * (right - left)
    np.testing.assert_allclose(kept, 1 - area / SIZE**2)
    assert area.max() == 36 and area.min() < 36
    assert kept.min() == pytest.approx(1 - 36 / 64) and kept.max() > share + 0.3
    assert min(top.min(), left.min()) >= 0 and max(bottom.max(), right.max()) <= SIZE


def test_smoothed_targets():
    found = _mixing.soft(jnp.array([2]), 4, 0.1)
    np.testing.assert_allclose(found, [[0.025, 0.025, 0.925, 0.025]], atol=1e-7)


def test_erasing_puts_noise_into_a_box_of_some_images():
    images = jnp.zeros((400, 16, 16, 3))
    found = jax.device_get(jit(lambda x: _mixing.erased(jax.random.key(0), x, 0.25))(images))
    hit = (found != 0).any(axis=(1, 2, 3))
    assert 0.17 < hit.mean() < 0.33
    changed = (found != 0).all(axis=-1)  # bool[N H W]; noise is never exactly 0
    shares = changed[hit].mean(axis=(1, 2))
    assert shares.min() >= 0.01 and shares.max() <= 0.36  # 2 to 33 %, in whole pixels
    for one in changed[hit]:
        np.testing.assert_array_equal(one, one.any(axis=1)[:, None] & one.any(axis=0)[None])
    noise = found[changed]
    assert abs(noise.mean()) < 0.05 and noise.std() == pytest.approx(1, abs=0.05)
    assert jit(lambda x: _mixing.erased(jax.random.key(0), x, 0.0))(images).any() == False  # noqa: E712
