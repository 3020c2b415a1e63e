"""What a mesh asks of a step, and of the arrays inside it: the `Placement` of a run."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from unified_fm import rules as path_rules
from unified_fm import sharding
from unified_fm.placement import Placement
from unified_fm.step import Program

_LAYER = re.compile(r"(^|/)layer_\d+/")  # a stack gathers a layer where it runs it


def check(
    mesh: Mesh,
    program: Program,
    shapes: Mapping[str, Any],
    params: Any,
    *,
    taught: Mapping[str, Any],
    rules: Any = None,
    idle: bool = False,
) -> None:
    """Refuses a mesh on which the step of a program cannot be made, or on which devices idle.

    Args:
        mesh: one that divides the batches.
        program: what is learnt from what.
        shapes: {stream: {array: shape}} of the global batches.
        params: the parameter tree, or its shapes.
        taught: {teacher: its parameters}, likewise.
        rules: as for `params_shardings`.
        idle: the devices along `tensor` may all do the same.

    Raises:
        ValueError: which part of what it does not divide, and what it would have to.
    """
    for name in grouped(program, shapes):
        sharding.check_groups(mesh, name, program.streams[name].groups or 1, program.accumulate)
    where = sharding.params_shardings(mesh, params, rules)
    if not idle:
        sharding.check_tensor(mesh, where, rules)
    for name, tree in taught.items():
        try:
            sharding.params_shardings(mesh, tree, rules)
        except ValueError as error:
            raise ValueError(f"teacher {name!r}: {error}") from error


def grouped(program: Program, shapes: Mapping[str, Any]) -> list[str]:
    """The streams whose rows refer to others of their group; arguments as of `check`."""
    streams = program.streams.items()
    return [name for name, each in streams if each.refers or "image_index" in shapes[name]]


def placement(mesh: Mesh, params: Any, rules: Any = None) -> Placement:
    """What the mesh asks inside a step: where rows are cut, and where parameters are gathered.

    Without it the partitioner keeps parameters where they are stored and moves activations: every
    device would hold the attention scores of the whole batch. Gathered are parameters split over
    `fsdp`; what `tensor` splits stays split. The gradient comes back to where they are stored.

    Args:
        mesh: the mesh.
        params: the parameter tree, or its shapes.
        rules: as for `params_shardings`.
    """
    platform = sharding.platform_of(mesh.devices.flat)
    if mesh.size == 1:
        return Placement(platform=platform)
    stored = {
        name: where.spec
        for (name, _), where in zip(
            path_rules.named_leaves(params),
            jax.tree.leaves(sharding.params_shardings(mesh, params, rules)),
            strict=True,
        )
    }

    def rows(x: jax.Array) -> jax.Array:
        # Only of rows is anything said: heads may be split over "tensor".
        rest = [P.UNCONSTRAINED] * (x.ndim - 1)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*sharding.BATCH, *rest)))

    def gathered(root: str, tree: Any) -> Any:
        def place(path, leaf):
            inner = path_rules.path_name(path)
            if not root and _LAYER.search(inner):
                return leaf  # when its turn comes
            spec = stored.get(f"{root}/{inner}" if root else inner)
            return leaf if spec is None or "fsdp" not in spec else _gather(mesh, spec, leaf)

        return jax.tree.map_with_path(place, tree)

    def split(x: jax.Array, axis: int) -> jax.Array:
        axes = ["tensor" if number == axis else None for number in range(x.ndim)]
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*axes)))

    def summed(x: jax.Array, axis: int) -> jax.Array:
        if mesh.shape["fsdp"] == 1 or x.shape[axis] % mesh.shape["fsdp"]:
            return x
        free: list[Any] = [P.UNCONSTRAINED] * x.ndim
        free[axis] = "fsdp"
        return _in_parts(NamedSharding(mesh, P(*free)), x)

    return Placement(
        shards=sharding.batch_shards(mesh),
        rows=rows,
        params=gathered,
        platform=platform,
        splits=mesh.shape["tensor"],
        split=split,
        summed=summed,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(mesh: Mesh, spec: P, x: jax.Array) -> jax.Array:
    whole = P(*(None if axis == "fsdp" else axis for axis in spec))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, whole))


def _gather_forward(mesh: Mesh, spec: P, x: jax.Array) -> tuple[jax.Array, None]:
    return _gather(mesh, spec, x), None


def _gather_backward(mesh: Mesh, spec: P, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec)),)


_gather.defvjp(_gather_forward, _gather_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_parts(where: NamedSharding, x: jax.Array) -> jax.Array:
    del where
    return x


def _in_parts_forward(where: NamedSharding, x: jax.Array) -> tuple[jax.Array, None]:
    return _in_parts(where, x), None


def _in_parts_backward(where: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, where),)


_in_parts.defvjp(_in_parts_forward, _in_parts_backward)
