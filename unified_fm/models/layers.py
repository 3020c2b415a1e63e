"""One transformer layer, pre-LN or post-LN, with or without cross-attention."""

import functools
from typing import Any

import flax.linen as nn
import jax

from unified_fm.models import draws
from unified_fm.models.attention import Attention, relative_position_index
from unified_fm.models.config import EncoderConfig
from unified_fm.models.layer_norm import LayerNorm
from unified_fm.models.rows import Rows, dropout


class Layer(nn.Module):
    """Self-attention, cross-attention if asked for, and an MLP, each a residual branch."""

    config: EncoderConfig
    index: int = 0  # From 0; sets the drop-path rate and the initial scale of the outputs.
    grid: int = 0  # Patches on a side, for the relative position bias.
    cross_attention: bool = False

    def setup(self):
        c = self.config
        self.self_attn = Attention(c, self.index)
        self.self_norm = layer_norm(c)
        if self.cross_attention:
            self.cross_attn = Attention(c, self.index)
            self.cross_norm = layer_norm(c)
        self.mlp_in = nn.Dense(c.mlp_width, dtype=c.compute_dtype, kernel_init=draws.kernel(c))
        self.mlp_out = nn.Dense(
            c.width,
            dtype=c.compute_dtype,
            kernel_init=draws.residual_kernel(c, self.index),
        )
        self.mlp_norm = layer_norm(c)

        if c.relative_position_bias:
            rows = (2 * self.grid - 1) ** 2 + 3
            self.relative_position_bias = self.param(
                "relative_position_bias", nn.initializers.zeros, (rows, c.heads)
            )
        self.scale_attn = self._layer_scale("scale_attn")
        self.scale_mlp = self._layer_scale("scale_mlp")
        self.scale_cross = self._layer_scale("scale_cross") if self.cross_attention else None

    def __call__(self, x, mask=None, rows=None, looks: Any = None, drop_path=None, lengths=None):
        """Returns f[B L D].

        Args:
            x: f[B L D].
            mask: bool, broadcastable to [B H L L]; True where a token may look.
            rows: `rows.Rows`, with keys that are this layer's own; None = nothing is dropped.
            looks: `memory.Looks`, for the cross-attention.
            drop_path: rate; None = by the layer's own index.
            lengths: i32[B], where the mask says: each row's first so many tokens.
        """
        if drop_path is None:
            drop_path = self.config.drop_path * self.index / max(self.config.layers - 1, 1)
        # Each branch draws with keys of its own.
        keys = iter([None] * 3 if rows is None else [rows.fold(place) for place in range(3)])
        bias = self._position_bias(x.shape[1]) if self.config.relative_position_bias else None

        def see_itself(y, rows):
            return self.self_attn(y, mask=mask, bias=bias, rows=rows, lengths=lengths)

        residual = functools.partial(self._residual, drop_path=drop_path)
        x = residual(x, self.self_norm, self.scale_attn, see_itself, next(keys))
        if self.cross_attention:
            see = functools.partial(looks.attend, self.cross_attn)
            x = residual(x, self.cross_norm, self.scale_cross, see, next(keys))
        return residual(x, self.mlp_norm, self.scale_mlp, self._mlp, next(keys))

    def extend(self, x, cache, place, looks: Any):
        """Returns (f[B K T D], cache) of later tokens x f[B K T D] of K texts a row.

        Nothing is dropped.

        Args:
            x: f[B K T D].
            cache: see `Attention.extend`, f[B K L H Dh] each.
            place: i32[], the number of the first of x in its text.
            looks: `memory.Looks`, at whose B rows all K texts look.
        """
        rows, texts, length, width = x.shape
        kept = cache

        def see_itself(y, _):
            nonlocal kept
            flat = jax.tree.map(lambda leaf: leaf.reshape(rows * texts, *leaf.shape[2:]), cache)
            seen, flat = self.self_attn.extend(y.reshape(-1, length, width), flat, place)
            kept = jax.tree.map(lambda leaf: leaf.reshape(rows, texts, *leaf.shape[1:]), flat)
            return seen.reshape(y.shape)

        def see(y, _):
            # All tokens of all texts are so many queries of one attention: no row is copied.
            flat = y.reshape(rows, texts * length, width)
            return looks.attend(self.cross_attn, flat, Rows((rows,))).reshape(y.shape)

        residual = functools.partial(self._residual, rows=None, drop_path=0.0)
        x = residual(x, self.self_norm, self.scale_attn, see_itself)
        x = residual(x, self.cross_norm, self.scale_cross, see)
        return residual(x, self.mlp_norm, self.scale_mlp, self._mlp), kept

    def project_memory(self, x):
        """Keys and values f[I M H Dh] of this layer's cross-attention for x f[I M D]."""
        return self.cross_attn.project(x)

    def _residual(self, x, norm, scale, branch, rows, *, drop_path):
        """x plus one branch, normalised before the branch ("pre") or after the sum ("post")."""
        pre = self.config.norm == "pre"
        inside, whole, path = [None] * 3 if rows is None else [rows.fold(k) for k in range(3)]
        y = branch(norm(x) if pre else x, inside)
        y = dropout(whole, y, self.config.dropout)
        if scale is not None:
            y = y * scale.astype(y.dtype)
        # One draw per sample: the whole branch of a sample is there or not.
        x = x + dropout(path, y, drop_path, shape=(1, 1))
        return x if pre else norm(x)

    def _mlp(self, x, rows):
        del rows  # nothing is dropped between the two products
        return self.mlp_out(gelu(self.mlp_in(x), self.config.gelu))

    def _position_bias(self, tokens):
        index = relative_position_index(self.grid)
        index = index[-tokens:, -tokens:]  # Without a class token, its row and column go.
        return self.relative_position_bias[index].transpose(2, 0, 1)  # f[H T T]

    def _layer_scale(self, name):
        if self.config.layer_scale is None:
            return None
        init = nn.initializers.constant(self.config.layer_scale)
        return self.param(name, init, (self.config.width,))


def gelu(x, kind: str):
    """The activation "erf", "tanh" or "quick" = x sigmoid(1.702 x), of x f[...]."""
    if kind == "quick":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=kind == "tanh")


def layer_norm(config: EncoderConfig) -> LayerNorm:
    """A layer norm of this stack."""
    return LayerNorm(config.eps, config.compute_dtype)
