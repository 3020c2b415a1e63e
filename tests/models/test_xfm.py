"""The whole model: the shared image memory is exact, and half precision stays close."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_xfm
from unified_fm.bench import traced
from unified_fm.models.memory import Fusing, ImageMemory

ROWS = jnp.array([2, 0, 3, 3, 1, 0])  # repeats, and out of order


@pytest.fixture(scope="module")
def net():
    return tiny_xfm.model()


@pytest.fixture(scope="module")
def params(net):
    return tiny_xfm.params(net)


@pytest.fixture(scope="module")
def batches():
    return tiny_xfm.make_batches()


def shared(net, batches):
    """Fusion of texts with regions and with the regions' whole images, through the memory."""
    batch, views = batches["regions"], net(batches["regions"])
    texts = {"text": views.text[ROWS - 1], "text_mask": batch["text_mask"][ROWS - 1]}
    return {
        view: net.fuse(**texts, memory=views.image_memory, rows=ROWS, view=view)
        for view in ("row", "image")
    }


def naive(net, batches):
    """The same as the published program does it: gather images, pool, project for every row."""
    batch, views = batches["regions"], net(batches["regions"])
    text, text_mask = views.text[ROWS - 1], batch["text_mask"][ROWS - 1]
    image = views.image[batch["image_index"]]
    inside = batch["region_mask"][..., None]
    mean = (image[:, 1:] * inside).sum(1, keepdims=True) / inside.sum(1, keepdims=True)
    region = jnp.concatenate([mean, image[:, 1:]], axis=1)
    mask = jnp.pad(batch["region_mask"], ((0, 0), (1, 0)), constant_values=True)[ROWS]

    def fuse(image, mask):
        every = jnp.ones(image[ROWS].shape[:2], bool) if mask is None else mask
        memory = ImageMemory(image[ROWS], image[ROWS, 0], jnp.arange(len(ROWS)), every[:, 1:])
        return net.fuse(text=text, text_mask=text_mask, memory=memory)

    return {"row": fuse(region, mask), "image": fuse(image, None)}


def test_images_are_copied_once_to_the_rows_of_regions(net, batches):
    """For both views of a region, and once for the wrong image of each text."""

    def fuse(net, batch):
        views = net(batch)
        common = {"text": views.text, "text_mask": batch["text_mask"], "memory": views.image_memory}
        wrong = jnp.roll(jnp.arange(4), 1)
        views = [{}, {"view": "image"}, {"rows": wrong}, {}]
        return net.fuse_together([Fusing(**common, **view) for view in views])

    def run(params, batch):
        return nn.apply(fuse, net)({"params": params}, batch)

    jaxpr = jax.make_jaxpr(run)(tiny_xfm.shapes(net), batches["regions"])
    keys_or_values = (4, 1 + tiny_xfm.PATCHES, 2, 8)
    copies = [e for e in equations(jaxpr) if e.primitive.name == "gather"]
    assert sum(e.outvars[0].aval.shape == keys_or_values for e in copies) == 2 * 2


def equations(jaxpr):
    """All of a program, those of the programs inside it too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in traced.inside(equation.params):
            yield from equations(inner)


@pytest.mark.nightly
def test_projecting_images_once_equals_projecting_them_for_every_row(net, params, batches):
    def loss(way, params):
        fused = nn.apply(way, net)({"params": params}, batches)
        weights = jnp.cos(jnp.arange(16.0))
        return sum((x * weights).sum() for x in fused.values()), fused

    run = tiny_xfm.jit(jax.value_and_grad(loss, argnums=1, has_aux=True), static_argnums=0)
    (_, fused), gradient = run(shared, params)
    (_, expected), expected_gradient = run(naive, params)
    for key in expected:
        np.testing.assert_allclose(fused[key], expected[key], atol=2e-5)
    paths = jax.tree_util.tree_leaves_with_path(expected_gradient)
    for (path, a), b in zip(paths, jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max() + 1e-5, err_msg=str(path))
    assert np.abs(expected_gradient["patch_embed"]["kernel"]).max() > 0.1
    difference = np.abs(fused["row"] - fused["image"])
    assert difference.max() > 0.01  # a region is not its image


def test_memory_that_is_projected_in_advance_is_the_same(net, params, batches):
    def run(net, batch):
        views = net(batch)
        texts = {"text": views.text, "text_mask": batch["text_mask"]}
        memories = views.image_memory, net.remember(views.image)
        return [net.fuse(**texts, memory=memory, rows=ROWS[:4]) for memory in memories]

    found, expected = tiny_xfm.apply(run, net, params, batches["pairs"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_views_hold_what_the_batch_has_inputs_for(net, batches):
    def fields(batch):
        shapes = jax.eval_shape(
            nn.init_with_output(lambda net, b: net(b), net), jax.random.key(0), batch
        )[0]
        found = {name: x for name, x in vars(shapes).items() if name != "groups" and x is not None}
        return {name: getattr(x, "shape", "memory") for name, x in found.items()}

    assert fields(batches["text"]) == {"text": (4, 6, 16), "text_masked": (4, 6, 16)}
    assert fields(batches["image"]) == {
        "image": (4, 17, 16),
        "image_masked": (4, 17, 16),
        "pooled": (4, 16),
    }
    assert fields(batches["regions"]) == {
        "text": (4, 6, 16),
        "text_masked": (4, 6, 16),
        "image": (2, 17, 16),
        "pooled": (4, 16),
        "image_memory": "memory",
    }


def test_similarity_is_of_text_rows_and_image_columns(net, params, batches):
    def run(net, batch):
        views = net(batch)
        return net.similarity(views), net.text_feature(views), net.image_feature(views)

    found, text, image = tiny_xfm.apply(run, net, params, batches["pairs"])
    np.testing.assert_allclose(found[1, 3], text[1] @ image[3] / 0.2, rtol=1e-5)
    np.testing.assert_allclose((text**2).sum(-1), np.ones(4), rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_is_finite_and_close_to_float32(net, params, batches):
    half = tiny_xfm.model(dtype="bfloat16")
    exact, _ = tiny_xfm.apply(tiny_xfm.everything, net, params, batches)
    rough, heads = tiny_xfm.apply(tiny_xfm.everything, half, params, batches)
    assert all(np.isfinite(x).all() and x.dtype == np.float32 for x in [rough, *heads])
    # Cosines over a temperature of 0.2; bfloat16 has 8 bits of precision.
    np.testing.assert_allclose(rough * 0.2, exact * 0.2, atol=0.05)
    assert np.abs(rough - exact).max() > 1e-5  # it really computed in bfloat16


def test_the_model_rejects_an_unknown_view(net, params, batches):
    def run(net, batch):
        views = net(batch)
        texts = {"text": views.text, "text_mask": batch["text_mask"]}
        return net.fuse(**texts, memory=views.image_memory, view="whole")

    with pytest.raises(ValueError, match="view is 'whole'; Possible: row, image"):
        jax.eval_shape(nn.apply(run, net), {"params": params}, batches["regions"])
