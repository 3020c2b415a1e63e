"""Passes through the model that are joined say what single passes say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.models import tiny_ufm, tiny_xfm
from unified_fm import joint, placement
from unified_fm.models import stack
from unified_fm.models.rows import Rows
from unified_fm.plugins import build

XFM = {
    "text": ["mlm"],
    "image": ["mim"],
    "pairs": ["itc", "itm", "imlm", "mim"],
    "regions": ["itc", "itm", "imlm", "bbox"],
}
DROPPING = {"dropout": 0.3, "attention_dropout": 0.2}


def streams_of(names, **groups):
    made = {}
    for stream, keys in names.items():
        objectives = {key: build("objectives", key) for key in keys}
        made[stream] = joint.Stream(
            objectives=objectives, weights=dict.fromkeys(keys, 1.0), groups=groups.get(stream)
        )
    return made


def run(net, params, batches, streams, where=placement.NOWHERE, *, dropout=True, **options):
    """(losses by name, gradient of their sum)."""

    def total(params, batches):
        key = jax.random.key(5)
        with placement.use(where):
            found = joint.outputs(
                net, streams, params, None, batches, key, dropout=dropout, **options
            )
        losses = {f"{s}/{k}": out.loss for s in found for k, out in found[s].items()}
        return sum(losses.values()), losses

    step = tiny_xfm.jit(jax.value_and_grad(total, has_aux=True))
    (_, losses), gradient = step(params, batches)
    return jax.device_get((losses, gradient))


def assert_same(found, expected):
    """Losses to 1e-6 of each, the gradient to 1e-6 of its length, each parameter's to 4e-6.

    In float32, of which a rounding is 6e-8. Where a softmax is, terms cancel, and the order of sums
    shows. As measured, single parameters' gradients differ by up to 1.3e-6 of their length where
    passes are joined and 2.2e-6 between two scanned and unrolled layers; the whole gradient by
    5.5e-7, losses by 2.2e-7.
    """
    assert found[0].keys() == expected[0].keys()
    for name, loss in expected[0].items():
        np.testing.assert_allclose(found[0][name], loss, rtol=1e-6, err_msg=name)
    apart, length = [], []
    for (path, want), got in zip(
        jax.tree.leaves_with_path(expected[1]), jax.tree.leaves(found[1]), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("key/bias"):  # moves no softmax: its gradient is 0, and rounding
            assert max(np.abs(got).max(), np.abs(want).max()) < 1e-6, name
            continue
        want, got = (np.asarray(x, np.float64) for x in (want, got))
        apart.append(np.linalg.norm(got - want))
        length.append(np.linalg.norm(want))
        assert apart[-1] <= 4e-6 * length[-1], name
    assert np.linalg.norm(apart) <= 1e-6 * np.linalg.norm(length)


@pytest.fixture(scope="module")
def xfm():
    """A net that drops, its parameters, batches with two groups, streams, and the single passes."""
    layer = tiny_xfm.LAYER | DROPPING
    net = tiny_xfm.model(text=layer, fusion=layer, vision=layer | {"drop_path": 0.0})
    params, batches = tiny_xfm.params(net), tiny_xfm.make_batches()
    batches["regions"]["image_index"] = jnp.zeros(4, int)  # groups of one image and two rows
    streams = streams_of(XFM, pairs=2, regions=2)
    return net, params, batches, streams, run(net, params, batches, streams, joint=False)


@pytest.mark.parametrize(("together", "count"), [(True, 5), (False, 15)])
def test_xfm_makes_few_passes(monkeypatch, together, count):
    """Texts, masked texts (no gradient), images with and without; all fusion rows at once."""
    net, batches = tiny_xfm.model(), tiny_xfm.make_batches()
    streams, params = streams_of(XFM), tiny_xfm.shapes(net)
    passes, run_stack = [], stack.run

    def counted(module, x, **given):
        passes.append((module.name, x.shape[0], given["rows"].still))
        return run_stack(module, x, **given)

    monkeypatch.setattr(stack, "run", counted)
    jax.eval_shape(
        lambda params: joint.outputs(
            net, streams, params, None, batches, jax.random.key(0), joint=together
        ),
        params,
    )
    assert len(passes) == count
    if together:
        assert sorted(passes) == [
            ("fusion", 4 * 4 + 5 * 4, False),
            ("text", 8, True),
            ("text", 12, False),  # with the text stream's, which are longer at base size: 6 passes
            ("vision", 4, True),
            ("vision", 14, False),
        ]


@pytest.mark.slow  # compiles X-FM twice
def test_joined_passes_give_the_losses_and_gradients_of_single_ones(xfm):
    """And drop the same: by stream and view, not by what a row is joined with."""
    *given, single = xfm
    assert_same(run(*given, joint=True), single)
    assert given[0].text["dropout"] > 0


def ways(slow, *nightly):
    """Each takes up to a minute of compilation."""
    rest = [pytest.param(name, marks=pytest.mark.nightly) for name in nightly]
    return [pytest.param(slow, marks=pytest.mark.slow), *rest]


@pytest.mark.parametrize("loop", ways("scan", "unrolled"))
@pytest.mark.nightly
def test_joined_passes_are_the_same_on_eight_devices(loop):
    net = tiny_xfm.model(layer_loop=loop)
    batches = tiny_xfm.make_batches(rows=16)
    batches["regions"]["image_index"] = jnp.zeros(16, int)
    given = tiny_xfm.params(net), batches, streams_of(XFM, pairs=8, regions=8)
    expected = run(net, *given, joint=False)

    axis = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), axis, devices=jax.devices()[:8])
    rows, copies = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    constrained = placement.Placement(
        shards=8, rows=lambda x: jax.lax.with_sharding_constraint(x, rows)
    )
    placed = jax.device_put(given[0], copies), jax.device_put(batches, rows), given[2]
    assert_same(run(net, *placed, constrained), expected)


@pytest.mark.parametrize("remat", ways("dots", "none", "full"))
@pytest.mark.nightly
def test_scanned_layers_are_the_unrolled_ones(remat):
    """The same draws too; parameters keep a name for each layer."""
    layer = tiny_xfm.LAYER | DROPPING | {"layers": 2}
    options = {"text": layer, "fusion": layer, "vision": layer | {"drop_path": 0.2}}
    unrolled = tiny_xfm.model(**options, layer_loop="unrolled")
    scanned = tiny_xfm.model(**options, layer_loop="scan", remat=remat)
    params, batches = tiny_xfm.params(unrolled), tiny_xfm.make_batches()
    assert jax.tree.structure(tiny_xfm.shapes(scanned)) == jax.tree.structure(params)
    given = params, batches, streams_of(XFM)
    assert_same(run(scanned, *given), run(unrolled, *given))


@pytest.mark.slow
def test_ufm_joins_inside_a_group_of_gradients():
    net = tiny_ufm.student(encoder=tiny_ufm.LAYERS | DROPPING)
    batches = jax.tree.map(jnp.asarray, tiny_ufm.batches())
    streams = streams_of({"text": ["mlm"], "image": ["classify"]})

    def everything(net, batches):
        views = {name: net(batch) for name, batch in batches.items()}
        return net.mlm_head(views["text"].text_masked), net.image_head(views["image"].pooled)

    shapes = tiny_ufm.shapes(net, everything, batches)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.2, s.dtype), shapes)
    given = net, params, batches, streams
    assert_same(run(*given, joint=True), run(*given, joint=False))


def test_rows_are_joined_inside_the_parts_of_the_mesh():
    rows = Rows((4, 2), shards=2)
    a, b = jnp.arange(4), jnp.arange(10, 12)
    joined = rows.join([a, b])
    assert joined.tolist() == [0, 1, 10, 2, 3, 11]  # part 0 of each, then part 1 of each
    assert [x.tolist() for x in rows.cut(joined)] == [a.tolist(), b.tolist()]


def test_what_is_dropped_does_not_depend_on_the_mesh():
    keys = jax.random.split(jax.random.key(0))
    one, two = (Rows((4, 2), shards, keys=tuple(keys)) for shards in (1, 2))
    for alone, again in zip(
        one.cut(one.keep(0.5, (3,))), two.cut(two.keep(0.5, (3,))), strict=True
    ):
        np.testing.assert_array_equal(alone, again)
    assert not dataclasses.replace(one, keys=None).fold(3).keys


@pytest.mark.slow
def test_no_gradient_flows_through_a_pass_that_needs_none(xfm):
    """The view of the image stream is a target only: MIM's unmasked pass is still."""
    net, params, batches, _, _ = xfm
    streams = streams_of({"image": ["mim"]})
    still = run(net, params, batches, streams, joint=True, dropout=False)[1]
    assert np.abs(still["patch_embed"]["kernel"]).max() > 0  # by the masked pass
    assert streams["image"].reads == {"image_masked": True, "image": False}
