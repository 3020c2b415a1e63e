"""Initial values of parameters, as the published systems draw them."""

import math

import jax
import jax.numpy as jnp
from jax.nn import initializers

from unified_fm.models.config import EncoderConfig


def kernel(config: EncoderConfig):
    """The initializer of a layer's kernels."""
    if config.init == "normal":
        return initializers.normal(config.init_std)
    if config.init == "truncated_normal":
        return initializers.truncated_normal(config.init_std)
    if config.init == "lecun_normal":
        return initializers.lecun_normal()
    return uniform_fan_in


def residual_kernel(config: EncoderConfig, index: int):
    """The initializer of a kernel of layer `index` (from 0) that writes to the residual stream.

    Without the rescaling the variance of the stream grows with depth, which pre-LN stacks do not
    undo until their last norm. "layer" is BEiT's rule (X-FM section 1.3), "stack" GPT-2's.
    """
    depth = {"none": 0.5, "stack": config.layers, "layer": index + 1}[config.residual_init_scale]
    draw = kernel(config)

    def init(key, shape, dtype=jnp.float32):
        return draw(key, shape, dtype) / math.sqrt(2 * depth)

    return init


def uniform_fan_in(key, shape, dtype=jnp.float32):
    """U(-b, b), b = 1 / sqrt(fan_in): what PyTorch gives a Linear's or convolution's weight.

    X-FM's projection, matching and box heads keep this default (X-FM section 1.5).
    """
    return uniform(math.prod(shape[:-1]))(key, shape, dtype)


def uniform(fan_in: int):
    """U(-b, b), b = 1 / sqrt(fan_in): PyTorch's default for a bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
