import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from unified_fm import sharding
from unified_fm.optim import build
from unified_fm.plugins import build as plugin

PARAMS = {
    "text": {
        "layer_00": {
            "self_attn": {
                "query": {"kernel": jnp.zeros((6, 4, 8)), "bias": jnp.zeros((4, 8))},
                "out": {"kernel": jnp.zeros((4, 8, 6))},
            },
            "mlp_in": {"kernel": jnp.zeros((6, 12))},
        }
    },
    "temperature": jnp.zeros(()),
}


class _Mesh:
    """The sizes of a mesh of 8 devices, which this process need not have."""

    def __init__(self):
        self.shape = {"data": 2, "fsdp": 2, "tensor": 2}


def _spec(path, value, mesh=None):
    leaf = PARAMS
    for key in path.split("/"):
        leaf = leaf[key]
    return sharding._spec(mesh or _Mesh(), path, leaf.shape, value)


def test_tensor_rules_split_heads_and_the_hidden_layer():
    attn = "text/layer_00/self_attn"
    assert _spec(f"{attn}/query/kernel", "tensor:1+fsdp") == P(None, "tensor", "fsdp")
    assert _spec(f"{attn}/query/bias", "tensor:0") == P("tensor", None)
    assert _spec(f"{attn}/out/kernel", "tensor:0+fsdp") == P("tensor", "fsdp", None)
    assert _spec("text/layer_00/mlp_in/kernel", "fsdp") == P(None, "fsdp")
    assert _spec("temperature", "fsdp") == P()
    assert _spec("text/layer_00/mlp_in/kernel", "replicate") == P(None, None)


def test_what_cannot_be_split_is_said():
    with pytest.raises(
        ValueError, match=r"dimension 0 of a/b \(5, 4\) cannot be split over tensor=2"
    ):
        sharding._spec(_Mesh(), "a/b", (5, 4), "tensor:0")
    with pytest.raises(ValueError, match="no dimension '2'"):
        sharding._spec(_Mesh(), "a/b", (5, 4), "tensor:2")
    with pytest.raises(ValueError, match="possible: 'replicate'"):
        sharding._spec(_Mesh(), "a/b", (5, 4), "fdsp")
    with pytest.raises(ValueError, match="possible: fsdp, replicate, tensor"):
        sharding.named_rules("fdsp")
    assert sharding._spec(_Mesh(), "a/b", (5, 3), "fsdp") == P(None, None)  # whole, by design


def test_mesh_sizes():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert sharding.batch_shards(mesh) == 1
    with pytest.raises(ValueError, match=r"data=-1, fsdp=3, tensor=1 does not fit 1 device"):
        sharding.make_mesh(fsdp=3, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="at most one is -1"):
        sharding.make_mesh(data=-1, fsdp=-1)


def test_batches_that_cannot_be_split_are_refused():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    batch = {"pairs": {"text": np.zeros((6, 4)), "label": np.zeros(6)}}
    sharding.check_divisible(mesh, batch, accumulate=3)
    with pytest.raises(ValueError, match="stream 'pairs': 'label' has 6 rows, which 4 parts"):
        sharding.check_divisible(mesh, batch, accumulate=4)


def test_optimizer_state_lies_where_its_parameter_lies():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    where = sharding.params_shardings(mesh, PARAMS, "tensor")
    tx = build.build(
        PARAMS,
        merge=plugin("optim.merge", "sum", groups=["all"]),
        settings=build.Settings(lr=0.1, clip=1.0),
        total_steps=3,
    )
    state = jax.eval_shape(tx.init, PARAMS)
    shardings = sharding.like_params(mesh, state, PARAMS, where)
    adam = next(
        s
        for s in jax.tree.leaves(shardings, is_leaf=lambda x: hasattr(x, "mu"))
        if hasattr(s, "mu")
    )
    assert adam.mu == where
    assert adam.nu == where
    assert adam.count.spec == P()
    # A copy under another name, of another shape, is no copy.
    extra = {"mask": {"temperature": jnp.zeros(3)}, "score": {"temperature": jnp.zeros(())}}
    specs = sharding.like_params(mesh, extra, PARAMS, where)
    assert specs["mask"]["temperature"].spec == P()
    assert specs["score"]["temperature"] is where["temperature"]


def test_global_batches_keep_the_rows():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    x = np.arange(6).reshape(3, 2)
    placed = sharding.global_batches(mesh, {"text": {"text": x}})
    np.testing.assert_array_equal(placed["text"]["text"], x)
    assert placed["text"]["text"].sharding.spec == sharding.BATCH
