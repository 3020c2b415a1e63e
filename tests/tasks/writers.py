"""A tiny X-FM whose decoders write bytes, for the tests of captioning, SCST and VQA."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.models import tiny_xfm
from unified_fm import joint
from unified_fm import rules as paths
from unified_fm.data import tokenizer as tokenizers
from unified_fm.objectives.base import predicted

BYTES = tokenizers.load("bytes")
NET = tiny_xfm.model(vocab_size=270, max_positions=64)
PIXELS = {"size": 16, "patch_size": 4}


def value(objective):
    """`(net, batch) -> Output`; what it asks the fusion encoder for is answered."""

    def call(net, batch):
        started = {("", ""): objective(net, net(batch), batch)}
        return joint.answered(started, {"": net}, {("", ""): None}, joint=False)["", ""]

    return call


def said(objective):
    """`(net, batch) -> predictions`."""
    return lambda net, batch: predicted(net, objective, net(batch), batch)


def params(objective, batch, scale=0.2):
    """Random values for what the objective uses."""
    rngs = {name: jax.random.key(1) for name in ("params", "objective")}
    shapes = jax.eval_shape(nn.init(value(objective), NET), rngs, batch)["params"]
    rng = np.random.default_rng(3)

    def draw(path, x):
        values = scale * rng.normal(size=x.shape)
        return jnp.asarray(values + ("norm/scale" in paths.path_name(path)), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.lru_cache(maxsize=8)
def compiled(call):
    """`call(net, batch)` as a program of (parameters, batch, rngs)."""
    bound = nn.apply(call, NET)
    return tiny_xfm.jit(lambda params, batch, rngs: bound({"params": params}, batch, rngs=rngs))


def ask(call, params, batch, **rngs):
    """`call(net, batch)` in NumPy, compiled once for each `call`."""
    return jax.device_get(compiled(call)(params, batch, rngs or None))


def learnt(objective):
    """(loss, gradient) as a program of (parameters, batch, rngs)."""
    bound = nn.apply(value(objective), NET)

    def loss(params, batch, rngs):
        return bound({"params": params}, batch, rngs=rngs).loss

    return tiny_xfm.jit(jax.value_and_grad(loss))


def parts(grads):
    """The parts of the model that a gradient reaches."""
    return {
        name
        for name, tree in grads.items()
        if max(float(np.abs(x).max()) for x in jax.tree.leaves(tree)) > 0
    }


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - (logits.max(-1, keepdims=True))
    )
