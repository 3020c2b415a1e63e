"""Which attention a step takes, and the one that keeps no logits in memory: cuDNN's, on GPUs.

It is had for half precision only and drops nothing: dropout of probabilities and fusion exclude
each other, and the config decides. JAX wants even lengths for its gradient, so odd ones are padded
to a multiple of 16, and with a bias all. The bias then hides the padding: it is the same for all
rows, while JAX would make of a mask of each row's own a bias f[B H Q K] with a gradient as large.
The lengths of padded texts cost nothing; other masks of each row's own take the einsum.
"""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from unified_fm import placement

_MULTIPLE = 16
_HIDDEN = -(2.0**41)  # of a logit: exp gives 0, and cuDNN may still subtract two of them
_WIDEST = 128  # of heads, on every GPU that has it
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Choice:
    """An implementation of attention: "einsum", "xla" or "cudnn", and why it is that."""

    name: str
    why: str


def choose(
    asked: str, *, dtype: Any, head_width: int, drops: bool = False, masked: bool = False
) -> Choice:
    """The attention that a step takes on the platform of the placement in force.

    Args:
        asked: "einsum"; "xla", XLA's graph behind `jax.nn.dot_product_attention`; "cudnn"; or
            "auto": cuDNN's on a GPU where it can be had, else what is as fast.
        dtype: of queries, keys and values.
        head_width: size of a query.
        drops: whether probabilities are dropped.
        masked: whether each row has a mask that its length does not tell.

    Raises:
        ValueError: "xla" or "cudnn" was asked for and cannot be had. A mask does not count as that:
            where there is one, "cudnn" is the einsum.
    """
    if asked == "einsum":
        return Choice("einsum", "asked for")
    platform = placement.platform()
    dropout = "attention_dropout is above 0, and only the einsum drops" if drops else None
    if asked == "xla":
        return _had("xla", dropout)
    if asked == "auto" and platform == "tpu":
        return Choice("einsum", dropout) if dropout else Choice("xla", "on a TPU")
    obstacle = _lacking(platform) or dropout or obstacle_to_cudnn(dtype, head_width)
    if asked == "cudnn":
        _had("cudnn", obstacle)
    elif obstacle:
        return Choice("einsum", obstacle)
    if masked:
        return Choice("einsum", "each row has a mask of its own, which cuDNN's takes as a bias")
    return Choice("cudnn", "asked for" if asked == "cudnn" else "fused, on a GPU")


def _had(name: str, obstacle: str | None) -> Choice:
    if obstacle:
        raise ValueError(f"attention {name!r} cannot be had: {obstacle}; 'auto' takes what can be")
    return Choice(name, "asked for")


def obstacle_to_cudnn(dtype: Any, head_width: int) -> str | None:
    """What in the numbers of an encoder forbids cuDNN's attention; None = nothing."""
    if jnp.dtype(dtype).itemsize != 2:
        return f"cuDNN's is for half precision, and dtype is {jnp.dtype(dtype).name}"
    if head_width % 8 or head_width > _WIDEST:
        return f"cuDNN's heads are 8, 16, ... {_WIDEST} wide, and these are {head_width}"
    return None


def _lacking(platform: str) -> str | None:
    if platform != "gpu":
        return f"cuDNN's is for GPUs, and this is a {platform.upper()}"
    return _old_gpu() if jax.default_backend() == "gpu" else None


@functools.cache
def _old_gpu() -> str | None:
    capability = str(jax.devices()[0].compute_capability)  # "9.0"; that of AMD's is no number
    major = capability.partition(".")[0]
    if major.isdigit() and int(major) >= 8:
        return None
    return f"cuDNN's is for GPUs of compute capability 8.0 and more, and this has {capability}"


@functools.cache
def tell(line: str) -> None:
    """Writes a line into the log, the first time that it is told."""
    _log.info("%s", line)


def attend(query, key, value, *, bias=None, lengths=None, implementation: Any = "cudnn"):
    """Fused attention f[B Q H Dh] of query f[B Q H Dh] over key and value f[B K H Dh].

    Args:
        query, key, value: see above.
        bias: f[H Q K], rounded to the queries' dtype; its gradient is summed over the rows.
        lengths: i32[B], how many keys of each row may be seen, the first ones. A row of none sees
            its first key: it is padding, and must not become NaN.
        implementation: of `jax.nn.dot_product_attention`; "xla" does the same on any platform.
    """
    queries, keys = query.shape[1], key.shape[1]
    below, right = (_padding(length, bias is not None) for length in (queries, keys))
    query, key, value = (
        _lengthened(query, below),
        _lengthened(key, right),
        _lengthened(value, right),
    )
    if bias is not None:
        bias = jnp.pad(bias.astype(query.dtype), ((0, 0), (0, below), (0, 0)))
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, right)), constant_values=_HIDDEN)[None]
    elif right and lengths is None:
        lengths = jnp.full(len(key), keys, jnp.int32)
    told = {}
    if lengths is not None:
        # cuDNN's calls are cut by rows, and of these two XLA does not find out that they have any.
        rows = placement.current().rows
        told["key_value_seq_lengths"] = rows(jnp.maximum(lengths, 1))
        told["query_seq_lengths"] = rows(jnp.full_like(lengths, query.shape[1]))
    found = jax.nn.dot_product_attention(
        query, key, value, bias=bias, implementation=implementation, **told
    )
    return found[:, :queries]


def _padding(length: int, biased: bool) -> int:
    return -length % _MULTIPLE if biased or length % 2 else 0


def _lengthened(x, more):
    return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) if more else x
