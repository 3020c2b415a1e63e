"""An X-FM that compiles in seconds, random parameters for it, and one batch of each stream."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unified_fm.models.xfm import Model

LAYER = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
STILL = {"dropout": 0.0, "attention_dropout": 0.0}
SIZES = {
    "vocab_size": 40,
    "image_size": 16,
    "patch_size": 4,
    "projection_dim": 8,
    "max_positions": 12,
    "text": LAYER | STILL,
    "vision": LAYER | {"drop_path": 0.0},
    "fusion": LAYER | STILL,
}
PATCHES = 16
# Nearly all the time of these tests is LLVM's; on programs this small its effort does not pay.
FAST = {"xla_backend_optimization_level": 0}


def model(**changes):
    return Model(**(SIZES | changes))


def jit(fn, **options):
    """Compiled with little effort."""
    return jax.jit(fn, compiler_options=FAST, **options)


def apply(fn, net, params, *args, rngs=None):
    """`fn(net, *args)` with bound parameters, compiled."""
    call = jit(lambda params, args, rngs: nn.apply(fn, net)({"params": params}, *args, rngs=rngs))
    return call(params, args, rngs)


def everything(net, batches):
    """Touches every parameter."""
    views = {name: net(batch) for name, batch in batches.items()}
    mask, memory = batches["pairs"]["text_mask"], views["pairs"].image_memory
    fused = net.fuse(text=views["pairs"].text, text_mask=mask, memory=memory)
    heads = net.itm_head, net.box_head, net.mlm_head, net.fusion_mlm_head
    return net.similarity(views["pairs"]), [head(fused) for head in heads]


def shapes(net, batches=None):
    """The parameter tree, with shapes for arrays; nothing is computed."""
    init = nn.init(everything, net)
    batches = make_batches() if batches is None else batches
    return jax.eval_shape(init, jax.random.key(0), batches)["params"]


def params(net, seed=0, scale=0.3):
    """Random values everywhere, so that no gradient is zero by accident; norms around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        values = scale * rng.normal(size=x.shape)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("norm/scale") or "/scale_" in name:
            values = values + 1
        return jnp.asarray(0.2 if name == "temperature" else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(net))


def make_batches(rows=4, seed=0):
    """{"text", "image", "pairs", "regions"}; regions are `rows` texts on `rows` // 2 images."""
    rng = np.random.default_rng(seed)
    regions = _text(rng, rows) | _image(rng, rows // 2)
    del regions["patch_mask"]
    regions |= {
        "image_index": jnp.arange(rows) // 2,
        "region_mask": _exactly(rng, rows, 5),
        "box": jnp.asarray(rng.uniform(0.3, 0.6, (rows, 4)), jnp.float32),
        "is_image": jnp.arange(rows) == 0,
        "weight": jnp.ones(rows),
        "example_id": jnp.arange(rows),
    }
    pairs = _text(rng, rows) | _image(rng, rows) | {"example_id": jnp.arange(rows)}
    return {
        "text": _text(rng, rows),
        "image": _image(rng, rows),
        "pairs": pairs,
        "regions": regions,
    }


def _text(rng, rows, length=6, slots=2):
    lengths = rng.integers(4, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    ids = np.where(mask, rng.integers(5, 40, (rows, length)), 1)
    ids[:, 0] = 0
    positions = np.stack([rng.permutation(3)[:slots] + 1 for _ in range(rows)])
    masked_ids = np.take_along_axis(ids, positions, 1)
    masked_ids[0, -1] = -100
    masked = ids.copy()
    np.put_along_axis(masked, positions, 4, 1)
    return {
        "text": jnp.asarray(ids),
        "text_mask": jnp.asarray(mask),
        "text_masked": jnp.asarray(masked),
        "masked_positions": jnp.asarray(positions),
        "masked_ids": jnp.asarray(masked_ids),
    }


def _image(rng, rows):
    image = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    return {"image": jnp.asarray(image), "patch_mask": _exactly(rng, rows, 6)}


def _exactly(rng, rows, count):
    order = rng.random((rows, PATCHES)).argsort(1)
    return jnp.asarray(order < count)
