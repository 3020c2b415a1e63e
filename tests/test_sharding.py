import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests import tiny_config
from unified_fm import setup, sharding
from unified_fm.checkpoint import store as checkpoint
from unified_fm.config import file as config_file
from unified_fm.config import python
from unified_fm.config.settings import Mesh, Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.optim import build
from unified_fm.plugins import build as plugin

pytestmark = pytest.mark.usefixtures("compile_quickly")


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
    assert _spec(f"{attn}/query/bias", "tensor:0+fsdp") == P("tensor", "fsdp")
    assert _spec("text/layer_00/mlp_in/kernel", "replicate") == P(None, None)


@pytest.mark.parametrize(
    ("config", "stacks"),
    [("xfm_base", ("text", "vision", "fusion")), ("ufm_base:joint", ("encoder",))],
)
def test_base_configs_split_by_tensor_and_without_it_as_fsdp_does(config, stacks):
    one_layer = [f"model.{stack}.layers=1" for stack in stacks]
    ready = setup.prepare(config_file.load(config, one_layer), tokenizer=tokenizers.load("bytes"))
    rules = ready.settings.rules.sharding
    for fsdp in (1, 2, 8):
        mesh = sharding.make_mesh(fsdp=fsdp, devices=jax.devices()[:8])
        found = sharding.params_shardings(mesh, ready.params, rules)
        assert found == sharding.params_shardings(mesh, ready.params, "fsdp")
    split = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:8])
    found = jax.tree.leaves(sharding.params_shardings(split, ready.params, rules))
    assert sum("tensor" in where.spec for where in found) >= len(found) / 4
    assert sum("fsdp" in where.spec for where in found) >= len(found) / 2


@pytest.mark.parametrize("rules", [None, "fsdp", [("text/mlp/.*", "tensor:0"), (".*", "fsdp")]])
def test_a_tensor_axis_that_splits_nothing_is_refused(rules):
    config = _tiny()
    config = config.replace(rules=config.rules.replace(sharding=rules))

    def ready(tensor):
        mesh = Mesh(data=4, tensor=tensor)
        return setup.prepare(config.replace(mesh=mesh), devices=jax.devices()[:8])

    with pytest.raises(ValueError, match=r"mesh.tensor = 2 splits no parameter by config") as said:
        ready(2).train_step()
    assert repr(rules) in str(said.value)
    assert "--config.rules.sharding=tensor" in str(said.value)
    assert dict(ready(-1).mesh.shape)["tensor"] == 2
    ready(-1).train_step()  # whatever is left, as the quick start has it


def test_what_cannot_be_split_is_said():
    with pytest.raises(
        ValueError, match=r"dimension 0 of a/b \(5, 4\) cannot be split over tensor=2"
    ):
        sharding._spec(_Mesh(), "a/b", (5, 4), "tensor:0")
    with pytest.raises(ValueError, match="no dimension '2'"):
        sharding._spec(_Mesh(), "a/b", (5, 4), "tensor:2")
    with pytest.raises(ValueError, match="possible: 'replicate'"):
        sharding._spec(_Mesh(), "a/b", (5, 4), "fdsp")
    with pytest.raises(ValueError, match="Possible: fsdp, replicate, tensor"):
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


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the arrangement of a pod asks of a device, which is not here."""

    id: int
    process_index: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"


def pod(x, y, z=1, kind="TPU v6 lite", slices=1):
    """Chips of a torus, four to a host: squares of 2 x 2."""
    chips = []
    for which in range(slices):
        for k, j, i in np.ndindex(z, y, x):
            host = (k * (y // 2) + j // 2) * (x // 2) + i // 2 + which * x * y * z // 4
            chips.append(Chip(len(chips), host, (i, j, k), which, device_kind=kind))
    return chips


def gpus(hosts, each):
    card = {"coords": (0, 0, 0), "platform": "gpu", "device_kind": "NVIDIA H100"}
    return [Chip(k, k // each, slice_index=k // each, **card) for k in range(hosts * each)]


@pytest.mark.parametrize(
    ("chips", "sizes"),
    [
        (pod(16, 16), (32, 8, 1)),  # jax.make_mesh refuses these
        (pod(16, 16), (128, 1, 2)),
        (pod(4, 4), (2, 8, 1)),
        (pod(4, 4, 4, "TPU v5p"), (8, 8, 1)),
        (pod(4, 4, 4, "TPU v4"), (32, 1, 2)),
        (pod(8, 8, slices=2), (16, 8, 1)),
        (gpus(2, 8), (1, 16, 1)),  # to JAX every host of GPUs is a slice
        (gpus(8, 1), (1, 8, 1)),
    ],
)
def test_S5_a_mesh_is_made_on_every_topology(chips, sizes):
    arranged = sharding._arranged(sizes, chips)
    assert arranged.shape == sizes
    assert {chip.id for chip in arranged.flat} == {chip.id for chip in chips}
    if chips[0].platform == "tpu":  # what is not "data" stays inside a slice
        assert {len({chip.slice_index for chip in part.flat}) for part in arranged} == {1}


def test_S5_a_mesh_that_cannot_be_made_says_why():
    with pytest.raises(ValueError, match=r"data=1, fsdp=128, tensor=1 cannot be laid over .* 2 sl"):
        sharding._arranged((1, 128, 1), pod(8, 8, slices=2))


class Held:
    """A mesh of chips that are not here."""

    def __init__(self, chips, sizes):
        self.devices = sharding._arranged(sizes, chips)
        self.shape = dict(zip(sharding.AXES, sizes, strict=True))


def test_S1_a_process_loads_the_rows_of_its_own_devices(monkeypatch):
    chips = pod(4, 4, kind="TPU v5 lite")
    mesh = Held(chips, (16, 1, 1))
    found = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        own, count = sharding.own_shards(mesh)
        assert count == 16
        assert [mesh.devices[shard, 0, 0].process_index for shard in own] == [process] * 4
        found.append(own)
    assert sorted(sum(found, ())) == list(range(16))
    assert found != [tuple(range(4 * p, 4 * p + 4)) for p in range(4)]  # no neighbours


def test_S2_processes_that_hold_one_shard_load_the_same_rows(monkeypatch):
    mesh = Held(pod(4, 4, kind="TPU v5 lite"), (2, 1, 8))  # a shard lies on two hosts or more
    shards = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shards.append(sharding.own_shards(mesh))
    holders = [[p for p in range(4) if shard in shards[p][0]] for shard in (0, 1)]
    assert all(len(held) >= 2 for held in holders)
    assert {count for _, count in shards} == {2}


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


MESHES = {
    "one": ({"data": 1}, 1),
    "data": ({"data": 8, "fsdp": 1, "tensor": 1}, 8),
    "fsdp": ({"data": 2, "fsdp": 4, "tensor": 1}, 8),
    "all": ({"data": 2, "fsdp": 2, "tensor": 2}, 8),
}


# Eight groups of two rows, so that there are negatives in each.
IN_GROUPS = [f"streams.{name}.batch_size=16" for name in ("text", "image", "pairs", "regions")]
IN_GROUPS += [f"streams.{name}.groups=8" for name in ("pairs", "regions")]
IN_GROUPS += ["streams.regions.images=16"]


def _train(config, mesh, steps=2, devices=None):
    """Metrics of every step, and the last state, on a mesh."""
    sizes, count = MESHES[mesh] if isinstance(mesh, str) else (mesh, 8)
    config = config.replace(mesh=Mesh(**sizes))
    ready = setup.prepare(config, devices=devices or jax.devices()[:count])
    streams = ready.open_streams()
    state, train_step, logs = ready.fresh_state({}), ready.train_step(), []
    for _ in range(steps):
        state, metrics = train_step(state, {}, ready.place(next(streams)))
        logs.append({name: float(value) for name, value in metrics.items()})
    streams.close()
    return logs, state, ready.target


def _assert_close(logs, expected, rtol=1e-6):
    for got, want in zip(logs, expected, strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=rtol, atol=1e-7, err_msg=name)


def _tiny(**changes):
    config = python.plain(tiny_config.get_config())
    config["rules"]["sharding"] = "tensor"
    return Settings.of({**config, "ema": 0.9, **changes})


@pytest.mark.slow
def test_row_08_the_same_losses_on_every_mesh_and_checkpoints_move_between_them(tmp_path):
    logs, _, target_of_one = _train(_tiny(), "one", steps=3)
    for name in ("data", "fsdp", "all"):
        other, state, _ = _train(_tiny(), name, steps=3)
        _assert_close(other, logs)
    kernel = state.params["text"]["mlp_in"]["kernel"]  # f[8 16] on data 2, fsdp 2, tensor 2
    assert kernel.sharding.spec == P("fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (4, 8)

    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(3, state, position={}, config={})
    checkpoints.wait()
    two = sharding.make_mesh(data=1, fsdp=2, devices=jax.devices()[:2])
    fsdp = sharding.params_shardings(two, state.params, "fsdp")
    target_of_two = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding.replicated(two)
        ),
        target_of_one,
    )
    target_of_two = target_of_two.replace(
        params=jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            target_of_one.params,
            fsdp,
        )
    )
    for target, count in ((target_of_one, 1), (target_of_two, 2)):
        restored, _ = checkpoints.restore(target)
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        assert len(restored.params["text"]["mlp_in"]["kernel"].sharding.device_set) == count
    checkpoints.close()


@pytest.mark.slow  # X-FM, twice
@pytest.mark.nightly
def test_S1_the_same_losses_in_every_order_of_the_devices():
    config = config_file.load("configs/xfm_base.py:smoke", IN_GROUPS)
    logs, _, _ = _train(config, "one")
    drawn = [0, 2, 1, 3, 7, 5, 6, 4], [5, 1, 7, 0, 3, 6, 2, 4]
    for order in (range(8), range(7, -1, -1), *drawn):
        devices = [jax.devices()[k] for k in order]
        _assert_close(_train(config, "data", devices=devices)[0], logs)


@pytest.mark.slow
def test_micro_batches_on_a_mesh():
    config = _tiny(model={"name": "tests.tiny"})  # without dropout, which a cut batch draws anew
    streams = {name: entry.replace(batch_size=16) for name, entry in config.streams.items()}
    config = config.replace(streams=streams)
    logs, _, _ = _train(config, "one")
    cut, _, _ = _train(config.replace(accumulate=2), "all")
    _assert_close(cut, logs)


@pytest.mark.nightly  # eleven compilations each
@pytest.mark.parametrize(
    ("name", "stacks", "changes"),
    [
        ("xfm_base:smoke", ("text", "vision", "fusion"), IN_GROUPS),
        ("ufm_base:smoke,igm", ("encoder",), ["telemetry.every=0"]),  # gradients of both, masked
    ],
)
def test_the_same_losses_on_every_mesh_of_eight(name, stacks, changes):
    changes = ["rules.sharding=tensor", "model.layer_loop=scan", *changes]
    changes += [f"model.{stack}.heads=8" for stack in stacks]
    config = config_file.load(name, changes)
    logs, _, _ = _train(config, "one")
    sizes = [(d, f, 8 // (d * f)) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if 8 % (d * f) == 0]
    assert len(sizes) == 10
    for mesh in sizes:
        found, _, _ = _train(config, dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
        _assert_close(found, logs, rtol=1e-6 if mesh[2] == 1 else 1e-5)
