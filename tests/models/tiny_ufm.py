"""A UFM and its teachers that compile in seconds, random parameters for them, and batches."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import rules
from unified_fm.models import bert, ufm, vit

LAYERS = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
STILL = {"dropout": 0.0, "attention_dropout": 0.0}
WORDS, CLASSES, SIZE, PATCH = 40, 5, 8, 4
# Nearly all the time of these tests is LLVM's; on programs this small its effort does not pay.
FAST = {"xla_backend_optimization_level": 0}


def student(**changes):
    sizes = {"vocab_size": WORDS, "image_size": SIZE, "patch_size": PATCH, "max_positions": 12}
    return ufm.Model(**(sizes | {"classes": CLASSES, "encoder": LAYERS} | changes))


def text_teacher(**changes):
    sizes = {"vocab_size": WORDS, "max_positions": 12, "text": LAYERS | STILL}
    return bert.Model(**(sizes | changes))


def image_teacher(**changes):
    sizes = {"image_size": SIZE, "patch_size": PATCH, "classes": CLASSES, "vision": LAYERS}
    return vit.Model(**(sizes | changes))


def batches(seed=0, rows=4, length=9):
    """One batch of text and one of images, with padding."""
    rng = np.random.default_rng(seed)
    text = rng.integers(5, WORDS, (rows, length)).astype(np.int32)
    mask = np.arange(length) < np.array([length, 6, 4, length] * rows)[:rows, None]
    positions = np.array([[1, 3], [2, 0], [1, 2], [5, 7]] * rows)[:rows].astype(np.int32)
    ids = np.take_along_axis(text, positions, 1)
    ids[1, 1] = -100
    masked = text.copy()
    np.put_along_axis(masked, positions, 4, axis=1)
    return {
        "text": {
            "text": np.where(mask, text, 0),
            "text_mask": mask,
            "text_masked": np.where(mask, masked, 0),
            "masked_positions": positions,
            "masked_ids": ids,
        },
        "image": {
            "image": rng.integers(0, 256, (rows, SIZE, SIZE, 3)).astype(np.uint8),
            "label": rng.integers(0, CLASSES, rows).astype(np.int32),
        },
    }


def shapes(net, fn, batch):
    """The parameters that `fn(net, batch)` uses, with shapes for arrays; nothing is computed."""
    return jax.eval_shape(nn.init(fn, net), jax.random.key(0), batch)["params"]


def params(net, fn, batch, seed=0, scale=0.3):
    """Random values everywhere, so that no gradient is zero by accident."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        value = scale * rng.normal(size=leaf.shape)
        value += rules.path_name(path).endswith("scale")
        return jnp.asarray(value, jnp.float32)

    return jax.tree.map_with_path(draw, shapes(net, fn, batch))


def targets(net, batch):
    return net.targets(batch)


def everything(net, both):
    """Touches every parameter of a student."""
    return [net.targets(batch) for batch in both.values()]


def apply(fn, net, tree, *args, rngs=None):
    """`fn(net, *args)` with bound parameters, compiled."""
    call = jax.jit(
        lambda tree, args: nn.apply(fn, net)({"params": tree}, *args, rngs=rngs),
        compiler_options=FAST,
    )
    return call(tree, args)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
