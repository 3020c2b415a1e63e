"""The mesh and where every array lies on it.

Three axes, always present: `data` and `fsdp` split the batch, `fsdp` also splits parameters and the
optimizer's state, `tensor` splits attention heads and the hidden layer of the MLPs. Which parameter
goes where is a rule list, so the same code runs on 1 device and on 8.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unified_fm import rules as path_rules

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# "tensor:N" splits dimension N: heads of the attention, width of the MLP's hidden layer. Where the
# mesh has tensor=1, the rules "tensor" are the rules "fsdp".
NAMED_RULES: dict[str, path_rules.Rules] = {
    "replicate": [(".*", "replicate")],
    "fsdp": [(".*", "fsdp")],
    "tensor": [
        (".*_attn/(query|key|value)/kernel", "tensor:1+fsdp"),
        (".*_attn/(query|key|value)/bias", "tensor:0+fsdp"),
        (".*_attn/out/kernel", "tensor:0+fsdp"),
        (".*/relative_position_bias", "tensor:1+fsdp"),
        (".*/mlp_in/kernel", "tensor:1+fsdp"),
        (".*/mlp_in/bias", "tensor:0+fsdp"),
        (".*/mlp_out/kernel", "tensor:0+fsdp"),
        (".*", "fsdp"),
    ],
}


def make_mesh(
    *, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Makes the mesh of the run.

    Args:
        data, fsdp, tensor: sizes of the axes; one of them may be -1, "the rest".
        devices: all devices of all processes when None.

    Raises:
        ValueError: the sizes do not multiply to the number of devices, or the chips of this
            topology cannot be cut so.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(f"mesh {named}: sizes are positive, and at most one is -1 (the rest)")
    known = math.prod(size for size in sizes if size != -1)
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        raise ValueError(f"mesh {named} does not fit {len(devices)} device(s)")
    sizes = tuple(len(devices) // known if size == -1 else size for size in sizes)
    return Mesh(_arranged(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(sizes: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """The devices as an array of these sizes, so that neighbours on an axis are near each other."""
    slices = 1  # On GPUs every host is one to JAX; the order of the devices, host by host, will do.
    with contextlib.suppress(AttributeError):  # not told of one slice that is not here
        slices = len({d.slice_index for d in devices if d.platform == "tpu"}) or 1
    try:
        if slices == 1:
            return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        # Between slices the network is slow: they lie along "data", all else inside a slice.
        if sizes[0] % slices:
            raise NotImplementedError(f"data={sizes[0]} does not divide among {slices} slices")
        within = (sizes[0] // slices, *sizes[1:])
        return mesh_utils.create_hybrid_device_mesh(
            within, (slices, 1, 1), devices, allow_split_physical_axes=True
        )
    except (NotImplementedError, AssertionError, ValueError) as error:
        named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise ValueError(
            f"mesh {named} cannot be laid over these {len(devices)} devices in {slices} slice(s): "
            f"{error or type(error).__name__}; data is to be a multiple of {slices}, and fsdp and "
            "tensor powers of two inside a slice"
        ) from error


def own_shards(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """Which rows of every batch this process loads: (shards that its devices hold, of how many).

    `jax.experimental.mesh_utils` orders the chips of a pod along its torus, so these are no
    neighbours in general; and where `tensor` spans processes, several load the same rows.
    """
    here = jax.process_index()
    rows = mesh.devices.reshape(batch_shards(mesh), -1)
    own = [
        number
        for number, holders in enumerate(rows)
        if any(device.process_index == here for device in holders)
    ]
    return tuple(own), len(rows)


def batch_shards(mesh: Mesh) -> int:
    """The number of parts into which the mesh splits a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds whole."""
    return NamedSharding(mesh, P())


def params_shardings(mesh: Mesh, params: Any, rules: Any = None) -> Any:
    """Gives every parameter its sharding.

    Args:
        mesh: the mesh.
        params: the parameter tree, or its shapes.
        rules: a rule list, or the name of one of `NAMED_RULES`; None is "replicate". Values:
            "replicate"; "fsdp" splits the largest dimension that the axis divides, and leaves the
            parameter whole if there is none; "tensor:N" splits dimension N over `tensor`;
            "tensor:N+fsdp" does both, on different dimensions. An axis of size 1 splits nothing.

    Raises:
        ValueError: an unknown name or value, or a dimension that `tensor` does not divide.
    """
    values = path_rules.assign(params, named_rules(rules), what="sharding")
    return jax.tree.map_with_path(
        lambda path, leaf, value: NamedSharding(
            mesh, _spec(mesh, path_rules.path_name(path), leaf.shape, value)
        ),
        params,
        values,
    )


def named_rules(rules: Any) -> path_rules.Rules:
    """Returns the rule list that `rules` is or names.

    Raises:
        ValueError: an unknown name.
    """
    return path_rules.named("replicate" if rules is None else rules, NAMED_RULES, "sharding")


def like_params(mesh: Mesh, tree: Any, params: Any, shardings: Any) -> Any:
    """Shards a tree that contains copies of the parameter tree, such as an optimizer's state.

    A leaf whose path ends with a parameter's path and whose shape is that parameter's lies where
    the parameter lies; every other leaf (a count, a norm) is replicated.
    """
    known = {
        name: (leaf.shape, sharding)
        for (name, leaf), sharding in zip(
            path_rules.named_leaves(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def sharding(path, leaf):
        parts = path_rules.path_name(path).split("/")
        for start in range(len(parts)):  # the longest suffix first
            shape, found = known.get("/".join(parts[start:]), (None, None))
            if shape == leaf.shape:
                return found
        return replicated(mesh)

    return jax.tree.map_with_path(sharding, tree)


def own_mesh(mesh: Mesh) -> Mesh:
    """The devices of this process as a mesh; parameters are split over them if `mesh` does so."""
    return mesh if jax.process_count() == 1 else _by_process(mesh, [jax.process_index()])


def own_copy(mesh: Mesh, params: Any, rules: Any = None) -> Any:
    """A copy of parameters on the devices of this process, which may then compute what it likes.

    Every process must ask for it; `rules` as for `params_shardings`. It lies on `own_mesh`; with
    one process it is `params` themselves.
    """
    if jax.process_count() == 1:
        return params
    own = own_mesh(mesh)

    def copy(leaf, where):
        parts = [shard.data for shard in jax.device_put(leaf, where).addressable_shards]
        where = NamedSharding(own, where.spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, where, parts)

    # One copy for each process: they lie along "data", over which no parameter is split.
    everyones = _by_process(mesh, range(jax.process_count()))
    return jax.tree.map(copy, params, params_shardings(everyones, params, rules))


def _by_process(mesh: Mesh, processes: Sequence[int]) -> Mesh:
    devices = [
        device
        for process in processes
        for device in sorted(mesh.devices.flat, key=lambda device: device.id)
        if device.process_index == process
    ]
    split = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1
    fsdp = len(devices) // len(processes) if split else 1
    return Mesh(np.reshape(devices, (-1, fsdp, 1)), AXES)


def global_batches(mesh: Mesh, batches: Any) -> Any:
    """Turns this process's rows of every stream into global arrays, split over the mesh.

    Args:
        mesh: the mesh.
        batches: tree of NumPy arrays whose axis 0 holds the rows of `own_shards`.
    """
    where, (own, count) = of_batches(mesh), own_shards(mesh)
    if jax.process_count() == 1:  # among several, this call would wait for the others
        return jax.device_put(batches, where)  # all arrays at once

    def place(x: np.ndarray) -> jax.Array:
        size = len(x) // len(own)
        shape = (size * count, *x.shape[1:])

        def rows(index: Any) -> np.ndarray:
            start = own.index((index[0].start or 0) // size) * size
            return x[start : start + size]

        return jax.make_array_from_callback(shape, where, rows)

    return jax.tree.map(place, batches)


def placing(mesh: Mesh) -> Callable[[Any], Any]:
    """What puts a batch of NumPy arrays on the mesh: rows split where it divides them, else whole.

    Arrays that lie on its devices already (an image memory, say, which comes again and again) stay
    as they are.
    """
    parts, devices = batch_shards(mesh), set(mesh.devices.flat)

    def place(batch: Any) -> Any:
        def put(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
                return leaf
            split = np.ndim(leaf) and len(leaf) % parts == 0
            return jax.device_put(leaf, NamedSharding(mesh, BATCH) if split else replicated(mesh))

        return jax.tree.map(put, batch)

    return place


def of_batches(mesh: Mesh) -> NamedSharding:
    """The sharding of every array of a batch: its rows are split."""
    return NamedSharding(mesh, BATCH)


def on_mesh(shapes: Any, shardings: Any) -> Any:
    """Shapes with where their arrays lie: trees alike, or one sharding for all."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def check_groups(mesh: Mesh, stream: str, groups: int, accumulate: int = 1) -> None:
    """Refuses a mesh that would cut groups of rows which refer to each other.

    Args:
        mesh: the mesh.
        stream: its name.
        groups: of its rows, see `unified_fm.groups`.
        accumulate: number of micro-batches that each batch is cut into.

    Raises:
        ValueError: with both ways out.
    """
    parts = batch_shards(mesh)
    if groups % (parts * accumulate) == 0 or parts == 1:
        return
    raise ValueError(
        f"stream {stream!r}: its rows refer to each other inside groups, and groups={groups} do "
        f"not divide among the {parts} parts into which the mesh cuts a batch"
        f"{f' of {accumulate} micro-batches' if accumulate > 1 else ''}. Either set "
        f"config.streams.{stream}.groups to a multiple of {parts * accumulate} (then negatives are "
        "drawn from fewer rows, unless batch_size grows with it), or a mesh with fewer parts: "
        "data x fsdp must divide the groups"
    )


def check_tensor(mesh: Mesh, shardings: Any, rules: Any) -> None:
    """Refuses a mesh whose `tensor` splits no parameter: all its devices would do the same.

    Args:
        mesh: the mesh.
        shardings: of the parameters on it, see `params_shardings`.
        rules: that they come from, for the message.

    Raises:
        ValueError: with both ways out.
    """
    size = mesh.shape["tensor"]
    if size == 1 or any("tensor" in where.spec for where in jax.tree.leaves(shardings)):
        return
    raise ValueError(
        f"mesh.tensor = {size} splits no parameter by config.rules.sharding = {rules!r}, so {size} "
        "devices each would do the same. Either set --config.rules.sharding=tensor, which splits "
        "attention heads and MLPs, or leave mesh.tensor at 1"
    )


def platform_of(devices: Iterable[Any]) -> str:
    """What the devices are: "cpu", "gpu" or "tpu"; those of a plan may say "cuda" or "rocm"."""
    platform: str = next(iter(devices)).platform
    return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)


def check_divisible(mesh: Mesh, batches: Mapping[str, Any], accumulate: int = 1) -> None:
    """Refuses batches whose `accumulate` micro-batches cannot be split evenly over the mesh.

    Raises:
        ValueError: with the stream, the array and the numbers.
    """
    parts = batch_shards(mesh) * accumulate
    for stream, batch in batches.items():
        for name, leaf in path_rules.named_leaves(batch):
            rows = leaf.shape[0] if leaf.shape else 0
            if rows == 0 or rows % parts:
                raise ValueError(
                    f"stream {stream!r}: {name!r} has {rows} rows, which {parts} parts "
                    f"(data x fsdp = {batch_shards(mesh)}, accumulate = {accumulate}) do not "
                    "divide; change batch_size, accumulate or mesh"
                )


def _spec(mesh: Mesh, name: str, shape: Sequence[int], value: Any) -> P:
    """The partition of one parameter."""
    axes: list[str | None] = [None] * len(shape)
    for part in str(value).split("+"):
        if part.startswith("tensor:"):
            dimension = _tensor_dimension(mesh, name, shape, part)
            if mesh.shape["tensor"] > 1:
                axes[dimension] = "tensor"
        elif part == "fsdp":
            size = mesh.shape["fsdp"]
            free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % size == 0]
            if free and size > 1:
                axes[max(free, key=lambda i: shape[i])] = "fsdp"
        elif part != "replicate":
            raise ValueError(
                f"sharding: {name} got {value!r}; possible: 'replicate', 'fsdp', 'tensor:N', "
                "'tensor:N+fsdp' (N = the dimension to split)"
            )
    return P(*axes)


def _tensor_dimension(mesh: Mesh, name: str, shape: Sequence[int], part: str) -> int:
    """Reads N of "tensor:N" and checks that the axis divides that dimension."""
    text = part.removeprefix("tensor:")
    if not text.isdigit() or int(text) >= len(shape):
        raise ValueError(f"sharding: {name} of shape {tuple(shape)} has no dimension {text!r}")
    if shape[int(text)] % mesh.shape["tensor"]:
        raise ValueError(
            f"sharding: dimension {text} of {name} {tuple(shape)} cannot be split over "
            f"tensor={mesh.shape['tensor']}"
        )
    return int(text)
