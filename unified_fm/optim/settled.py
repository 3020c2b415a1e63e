"""A number that all leaves of a tree wait for, computed once."""

import jax
import jax.numpy as jnp


def settled(x: jax.Array) -> jax.Array:
    """The scalar x, made so that the compiler does not make it again wherever it is used.

    XLA fuses cheap producers into each of their consumers. A norm, or whether all is finite, is a
    cheap sum over numbers of all leaves, and its consumers are all leaves again: a base model would
    get 2,300 programs of 2,300 inputs each, and take many minutes to compile. A loop is never
    fused; `jax.lax.optimization_barrier` is, on CPU, where it is gone before XLA fuses.
    """
    return jax.lax.scan(lambda _, each: (each, None), jnp.zeros_like(x), jnp.stack([x, x]))[0]
