"""A stack of layers, unrolled or as one scanned layer; each layer keeps its own name in the tree.

Scanned, the parameters of all layers are stacked inside the step, and one layer is compiled instead
of N. On a mesh that splits parameters a layer's are gathered in the body, one layer at a time; that
they are not kept for the backward pass takes remat.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import placement
from unified_fm.models import fused, unpadding
from unified_fm.models.config import EncoderConfig
from unified_fm.models.layers import Layer
from unified_fm.models.memory import Looks
from unified_fm.models.rows import Rows

_KEEP_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def make(module: nn.Module, config: EncoderConfig, grid: int, cross_attention: bool) -> None:
    """Sets `layer_00`, ... on a module in its `setup`: they name and initialise the parameters."""
    for index in range(config.layers):
        layer = Layer(config, index=index, grid=grid, cross_attention=cross_attention)
        setattr(module, _name(index), layer)


def run(
    module: Any,
    x: jax.Array,
    *,
    rows: Rows | None = None,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    looks: Looks | None = None,
    held: jax.Array | None = None,
) -> jax.Array:
    """Hidden states f[B L D] after the last layer.

    Args:
        module: bound, with the layers of `make`.
        x: f[B L D].
        rows: whose rows these are; None = one batch, from which nothing is dropped.
        mask: bool, with the axes of attention logits [B H L L].
        lengths: i32[B], where that mask says: each row's first so many tokens.
        looks: what the rows see in the cross-attention.
        held: bool[B L], where tokens are: `unpad` may leave the others out, and what is found for
            them is anything. None = nowhere is padding.
    """
    config = module.config
    if module.is_initializing():  # by name and index, so that initial values are as ever
        for index, layer in enumerate(_layers(module)):
            x = layer(x, mask, rows, looks and looks.at(index), lengths=lengths)
        return x
    layer = _detached(module)
    _tell(module, rows, mask, lengths, looks)

    def body(rows, name, index, rate, x, params, projected):
        params = placement.current().params("/".join((*module.path, name)), params)
        if rows is not None and rows.still:
            params = jax.lax.stop_gradient(params)
        seen = None if looks is None else looks.with_projected(projected)
        inside = None if rows is None else rows.fold(index)
        return layer.apply({"params": params}, x, mask, inside, seen, rate, lengths)

    stored = None if looks is None else looks.projected()
    if _scans(config):
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *_params(module))
        through = functools.partial(_scanned, config, body, params, stored)
    else:
        through = functools.partial(_unrolled, module, body, _params(module), stored)
    if held is None or rows is None or config.unpad == 1:
        return through(x, rows)
    return unpadding.either(through, x, rows, held, config.unpad)


def _scanned(config: EncoderConfig, body: Callable, params: Any, stored: Any, x: Any, rows: Any):
    traced = jnp.asarray(_rates(config), jnp.float32) if config.drop_path else None

    def step(x, each):
        index, rate, params, projected = each
        rate = 0.0 if rate is None else rate
        return body(rows, _name(0), index, rate, x, params, projected), None  # one rule for all

    each = jnp.arange(config.layers), traced, params, stored
    return jax.lax.scan(_remat(config, step, in_scan=True), x, each)[0]


def _unrolled(module: Any, body: Callable, layers: Any, stored: Any, x: Any, rows: Any):
    config = module.config
    for index, params in enumerate(layers):
        projected = jax.tree.map(lambda leaf, index=index: leaf[index], stored)
        with jax.named_scope("/".join((*module.path, _name(index)))):
            rate = float(_rates(config)[index])
            one = functools.partial(body, rows, _name(index), index, rate)
            x = _remat(config, one, in_scan=False)(x, params, projected)
    return x


def _rates(config: EncoderConfig) -> np.ndarray:
    return np.linspace(0.0, config.drop_path, config.layers)


def project_memory(module: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-attention keys and values f[N I M H Dh] of all N layers, of x f[I M D]."""
    pairs = [layer.project_memory(x) for layer in _layers(module)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)


def _remat(config: EncoderConfig, body: Callable, *, in_scan: bool) -> Callable:
    if config.remat == "none":
        return body
    policy = _KEEP_PRODUCTS if config.remat == "dots" else None
    # In a scan nothing can be merged, and the barrier against it costs.
    return jax.checkpoint(body, policy=policy, prevent_cse=not in_scan)


def _scans(config: EncoderConfig) -> bool:
    if config.layer_loop == "auto":
        return placement.platform() != "cpu"
    return config.layer_loop == "scan"


def _tell(module: Any, rows: Any, mask: Any, lengths: Any, looks: Looks | None) -> None:
    """Lets the log say, once, which attention the encoder has, and why."""
    config = module.config
    own = {"itself": mask is not None and lengths is None}
    if looks is not None:
        own |= looks.masked()
    drops = config.attention_dropout > 0 and rows is not None and rows.keys is not None
    found: dict[str, list[str]] = {}
    for seen, masked in own.items():
        chosen = fused.choose(
            config.attention,
            dtype=config.compute_dtype,
            head_width=config.head_width,
            drops=drops,
            masked=masked,
        )
        found.setdefault(f"{chosen.name} ({chosen.why})", []).append(seen)
    for chosen, several in found.items():
        name = "/".join(module.path) or type(module).__name__
        fused.tell(f"attention of {name} to {' and '.join(several)}: {chosen}")


def _name(index: int) -> str:
    return f"layer_{index:02d}"


def _layers(module: Any) -> list[Any]:
    return [getattr(module, _name(index)) for index in range(module.config.layers)]


def _params(module: Any) -> list[Any]:
    """Of each layer, kernels in the dtype that they are used in.

    A layer would make the same numbers of them; but so half as much of bfloat16 is stacked, and
    sent by the devices that store it.
    """
    tree, dtype = module.variables["params"], module.config.compute_dtype

    def as_used(path, leaf):
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    layers = [tree[_name(index)] for index in range(module.config.layers)]
    return [jax.tree.map_with_path(as_used, layer) for layer in layers]


def _detached(module: Any) -> Layer:
    return Layer(
        module.config, grid=module.grid, cross_attention=module.cross_attention, parent=None
    )
