"""ITC and ITM have the same value, gradient and draws on 1 and on 8 devices."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.models import tiny_xfm
from tests.objectives import stubs
from unified_fm.plugins import build


@pytest.fixture(scope="module")
def results():
    """{devices: (losses, gradient of their sum)} on 16 pairs."""
    net = tiny_xfm.model()
    params, batch = tiny_xfm.params(net), tiny_xfm.make_batches(rows=16)["pairs"]

    def losses(net, batch):
        views = net(batch)
        made = {name: build("objectives", name) for name in ("itc", "itm")}
        return {name: stubs.value(fn, net, views, batch).loss for name, fn in made.items()}

    def total(params, batch):
        rngs = {"objective": jax.random.key(0)}
        found = nn.apply(losses, net)({"params": params}, batch, rngs=rngs)
        return sum(found.values()), found

    def on(devices):
        axis = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((devices,), ("data",), axis, devices=jax.devices()[:devices])
        rows, copies = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        step = tiny_xfm.jit(jax.value_and_grad(total, has_aux=True))
        (_, found), gradient = step(jax.device_put(params, copies), jax.device_put(batch, rows))
        return jax.device_get((found, gradient))

    assert len(jax.devices()) == 8
    return {devices: on(devices) for devices in (1, 8)}


@pytest.mark.parametrize("name", ["itc", "itm"])
@pytest.mark.slow
def test_losses_are_equal(results, name):
    assert results[8][0][name] == pytest.approx(results[1][0][name], rel=1e-5)


@pytest.mark.slow
def test_gradients_are_equal(results):
    for one, eight in zip(*(jax.tree.leaves(results[n][1]) for n in (1, 8)), strict=True):
        np.testing.assert_allclose(eight, one, atol=1e-5 * np.abs(one).max() + 1e-6)
