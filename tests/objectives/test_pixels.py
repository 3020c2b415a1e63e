"""The pixels of masked patches, by hand."""

import types

import jax
import numpy as np
import pytest

from tests.models import tiny_ufm as tiny
from tests.models import tiny_xfm
from unified_fm import joint, step
from unified_fm.objectives import base, mim, pixels

IMAGE = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
MASK = np.array([[True, False, False, True], [False, True, False, False]])
# Patch 1 of an image is its upper right corner.
CORNER = IMAGE[1, :2, 2:].reshape(-1) / 255


def run(weight=None, **options):
    net = types.SimpleNamespace(mim_head=lambda x: np.zeros((*x.shape[:-1], 12), np.float32))
    views = types.SimpleNamespace(image_masked=np.zeros((2, 5, 7), np.float32))
    batch = {"image": IMAGE, "patch_mask": MASK}
    if weight is not None:
        batch["weight"] = np.array(weight)
    return pixels.Objective(**options)(net, views, batch)


def test_the_mean_square_of_the_masked_patches():
    first = IMAGE[0, :2, :2].reshape(-1) / 255, IMAGE[0, 2:, 2:].reshape(-1) / 255
    expected = np.mean([np.square(x).mean() for x in (*first, CORNER)])
    out = run(normalised=False)
    assert float(out.loss) == pytest.approx(expected, rel=1e-5)
    assert float(out.denominator) == 3
    out = run(normalised=False, weight=[0.0, 1.0])
    assert float(out.loss) == pytest.approx(np.square(CORNER).mean(), rel=1e-5)


def test_normalised_patches_have_variance_one():
    assert float(run().loss) == pytest.approx(1, abs=0.01)


def test_A7_a_bright_and_nearly_even_patch_keeps_its_structure():
    x = 3000 + np.random.default_rng(0).normal(size=(4, 48)).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(base.standardised(x), expected, atol=1e-3)


def test_the_students_head_fits():
    batch = tiny.batches()["image"] | {"patch_mask": np.tile(MASK, (2, 1))}

    def loss(net, batch):
        return pixels.Objective()(net, net(batch), batch).loss

    tree = tiny.shapes(tiny.student(mask_token=True), loss, batch)
    assert tree["mim_head"]["kernel"].shape == (16, 48)


@pytest.mark.parametrize("stream", ["image", "pairs"])
def test_xfm_has_the_head_where_pixels_are_learnt_and_nowhere_else(stream):
    """The images' stream makes the vision encoder alone; the pairs' stream is given texts, too."""
    batches = {stream: tiny_xfm.make_batches()[stream]}

    def tree(objective):
        streams = {stream: joint.Stream(objectives={"x": objective}, weights={})}
        program = step.Program(model=tiny_xfm.model(), streams=streams, groups={"all": [stream]})
        return jax.eval_shape(lambda batches: step.init_params(program, {}, batches), batches)

    with_head, without = tree(pixels.Objective()), tree(mim.Objective())
    assert with_head.pop("mim_head")["kernel"].shape == (16, 48)
    assert with_head == without
    assert set(without) == {"patch_embed", "vision", "temperature"}
