"""Attention: the one place where queries, keys and values meet."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unified_fm.models import draws, fused
from unified_fm.models.config import EncoderConfig
from unified_fm.models.rows import in_bytes, pack, spread


class Attention(nn.Module):
    """Multi-head attention whose keys and values may be projected once and used many times."""

    config: EncoderConfig
    index: int = 0  # Of the layer, for the initial scale of the output kernel.

    def setup(self):
        c = self.config
        heads = (c.heads, c.head_width)
        common = {"dtype": c.compute_dtype, "kernel_init": draws.kernel(c)}
        self.query = nn.DenseGeneral(heads, use_bias=c.query_bias, **common)
        self.key = nn.DenseGeneral(heads, use_bias=c.key_bias, **common)
        self.value = nn.DenseGeneral(heads, use_bias=c.value_bias, **common)
        self.out = nn.DenseGeneral(
            c.width,
            axis=(-2, -1),
            dtype=c.compute_dtype,
            kernel_init=draws.residual_kernel(c, self.index),
        )

    def __call__(self, x, mask=None, bias=None, rows=None, lengths=None):
        """Attends from x f[B Q D] to itself; returns f[B Q D].

        Args:
            x: f[B Q D], or f[S T D] of the tokens alone; see `Rows.unpadding`.
            mask: bool, broadcastable to [B H Q Q]; True where a query may look.
            bias: f[H Q Q], added to the logits.
            rows: `rows.Rows`; None = nothing is dropped.
            lengths: i32[B], where the mask says: each row's first so many tokens.
        """
        together = self._together(x, (self.query, self.key, self.value))
        query, keys, values = (spread(rows, each) for each in together)
        keep = self.draw(rows, (query.shape[1], query.shape[1]))
        seen = {"mask": mask, "lengths": lengths, "bias": bias, "keep": keep}
        return self.out(pack(rows, self.look(query, keys, values, **seen)))

    def extend(self, x, cache, place):
        """Attends from tokens x f[B T D] to those before them and to themselves, never ahead.

        Args:
            x: f[B T D].
            cache: (keys, values) f[B L H Dh] of the tokens before; the others are not looked at.
            place: i32[], the number of the first of x in its text.

        Returns:
            (f[B T D], the cache with those of x).
        """
        query, *new = self._together(x, (self.query, self.key, self.value))
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, each.astype(old.dtype), place, axis=1)
            for old, each in zip(cache, new, strict=True)
        )
        seen = jnp.arange(keys.shape[1]) <= place + jnp.arange(x.shape[1])[:, None]  # bool[T L]
        return self.out(self.look(query, keys, values, mask=seen[None, None])), (keys, values)

    def look(self, query, keys, values, *, mask=None, lengths=None, bias=None, keep=None):
        """Attention f[B Q H Dh] of query f[B Q H Dh]; see `attend`."""
        return attend(
            query,
            keys,
            values,
            mask=mask,
            lengths=lengths,
            bias=bias,
            # What initial parameters are does not depend on it, and shapes are found anywhere.
            implementation="einsum" if self.is_initializing() else self.config.attention,
            keep=keep,
            rate=in_bytes(self.config.attention_dropout),
        )

    def draw(self, rows, shape):
        """Which probabilities stay, bool[B H *shape]; None if none is dropped."""
        rate = self.config.attention_dropout
        if rate == 0 or rows is None or rows.keys is None:
            return None
        return rows.keep_bytes(in_bytes(rate), (self.config.heads, *shape))

    def project(self, x):
        """Keys and values f[B K H Dh] of x f[... K D]."""
        keys, values = self._together(x, (self.key, self.value))
        return keys, values

    def _together(self, x, maps):
        """What several linear maps give of x f[... D], f[... H Dh] each, in one matrix product.

        The kernels lie side by side on an axis of their own, so that heads split over `tensor` stay
        where they are.
        """
        if self.is_initializing():  # each by itself, so that initial values are as ever
            return [each(x) for each in maps]
        found = [each.variables["params"] for each in maps]
        dtype = self.config.compute_dtype
        kernels = jnp.stack([params["kernel"].astype(dtype) for params in found], axis=1)
        made = jnp.einsum("...d,dnhe->...nhe", x.astype(dtype), kernels)
        return [
            made[..., number, :, :] + params["bias"].astype(dtype)
            if "bias" in params
            else made[..., number, :, :]
            for number, params in enumerate(found)
        ]


def attend(
    query,
    key,
    value,
    *,
    mask=None,
    lengths=None,
    bias=None,
    implementation="auto",
    keep=None,
    rate=0.0,
):
    """Softmax attention f[B Q H Dh] of query f[B Q H Dh] over key and value f[B K H Dh].

    A query that may look nowhere gets the mean of all values (with fused attention, the first of
    them), not NaN: padded rows have such queries.

    Args:
        query, key, value: see above.
        mask: bool, broadcastable to [B H Q K].
        lengths: i32[B], where that mask says no more than: the first so many keys of each row.
        bias: f[H Q K].
        implementation: see `fused.choose`.
        keep: bool[B H Q K], probabilities that are not dropped; None = none is.
        rate: of that dropout.

    Raises:
        ValueError: an implementation was asked for that cannot be had.
    """
    chosen = fused.choose(
        implementation,
        dtype=query.dtype,
        head_width=query.shape[-1],
        drops=keep is not None,
        masked=mask is not None and lengths is None,
    ).name
    if chosen == "einsum":
        return _einsum_attention(query, key, value, mask, bias, keep, rate)
    if chosen == "cudnn":
        return fused.attend(query, key, value, bias=bias, lengths=lengths)
    bias = None if bias is None else bias[None].astype(query.dtype)
    return jax.nn.dot_product_attention(
        query, key, value, bias=bias, mask=mask, implementation="xla"
    )


def relative_position_index(grid: int) -> np.ndarray:
    """Rows of BEiT's table i32[1+N 1+N] for a class token and N = grid^2 patches, row by row.

    Patches i, j use row (r_i - r_j + g - 1)(2g - 1) + (c_i - c_j + g - 1); the last three rows of
    the table are class to any, any to class, class to class (X-FM section 1.3).
    """
    span = 2 * grid - 1
    row, column = np.divmod(np.arange(grid * grid), grid)
    index = np.empty((1 + grid * grid,) * 2, np.int32)
    index[1:, 1:] = (row[:, None] - row + grid - 1) * span + column[:, None] - column + grid - 1
    index[0, :] = span * span
    index[:, 0] = span * span + 1
    index[0, 0] = span * span + 2
    return index


def _einsum_attention(query, key, value, mask, bias, keep, rate):
    # Heads before tokens: with the tokens of a head side by side in memory, a batched product on
    # CPU is two to four times as fast.
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))  # f[B H L Dh]
    query = query / math.sqrt(query.shape[-1])
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits += bias.astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(logits)  # f32[B H Q K]
    if keep is not None:
        probabilities = jnp.where(keep, probabilities / (1 - rate), 0)
    seen = jnp.einsum("bhqk,bhkd->bhqd", probabilities.astype(value.dtype), value)
    return seen.transpose(0, 2, 1, 3)
