"""Stacks of layers: over text, over images, and over text with an image memory."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.models import stack
from unified_fm.models.config import EncoderConfig
from unified_fm.models.embeddings import VisionTokens
from unified_fm.models.layers import layer_norm
from unified_fm.models.rows import EMBEDDING


class Encoder(nn.Module):
    """Layers `layer_00`, `layer_01`, ..., and a final `norm` if they are pre-LN.

    Attributes:
        config: of the layers.
        grid: patches on a side, for relative position biases.
        cross_attention: whether every layer also attends to a memory.
        padded: whether a mask bool[B L] is True for the first tokens of each row and no others, as
            that of texts with their padding behind them; fused attention is told their number.
    """

    config: EncoderConfig
    grid: int = 0
    cross_attention: bool = False
    padded: bool = False

    def setup(self):
        stack.make(self, self.config, self.grid, self.cross_attention)
        if self.config.norm == "pre":
            self.norm = layer_norm(self.config)

    def __call__(self, x, mask=None, rows=None, looks=None):
        """Hidden states f[B L D] after the last layer.

        Args:
            x: f[B L D].
            mask: bool[B L] of tokens that may be seen, or bool[B L L] (query, key); None = all.
            rows: whose rows these are; None = one batch, from which nothing is dropped.
            looks: what the rows see in the cross-attention.
        """
        lengths = None
        if self.padded and mask is not None and mask.ndim == 2:
            lengths = mask.sum(axis=1, dtype=jnp.int32)
        held = None if lengths is None else mask
        given = {"rows": rows, "mask": _for_heads(mask), "lengths": lengths, "looks": looks}
        x = stack.run(self, x, **given, held=held)
        return self.norm(x) if self.config.norm == "pre" else x

    def project_memory(self, x):
        """Cross-attention keys and values f[N I M H Dh] of all N layers, of x f[I M D]."""
        return stack.project_memory(self, x)


class Vision(VisionTokens):
    """A BEiT- or ViT-style encoder whose output has one summary slot before the patches.

    Attributes:
        grid: patches on a side.
        pool: what slot 0 is: "mean" of the normalised patches (X-FM; a class token, if any, only
            serves inside the layers), "mean_before_norm" (BEiT's and timm's classifiers: the norm
            of the mean) or "class", the normalised class token.
        has_pre_norm: normalise the tokens before the first layer (CLIP).
    """

    grid: int = 0
    pool: str = "mean"
    has_pre_norm: bool = False
    cross_attention: ClassVar[bool] = False

    def setup(self):
        super().setup()
        choices.check("pool", self.pool, ("mean", "mean_before_norm", "class"))
        if self.pool == "class" and not self.has_class_token:
            raise ValueError("pool='class' needs a class token")
        stack.make(self, self.config, self.grid, cross_attention=False)
        self.norm = layer_norm(self.config)
        if self.has_pre_norm:
            self.pre_norm = layer_norm(self.config)

    def __call__(self, patches, patch_mask=None, rows=None):
        """f[B 1+N D], slot 0 the summary, of patches f[B N D]; bool[B N] is True where masked.

        `rows` says whose rows these are; None = one batch, from which nothing is dropped.
        """
        x = self.tokens(patches, patch_mask, None if rows is None else rows.fold(EMBEDDING))
        if self.has_pre_norm:
            x = self.pre_norm(x)
        x = stack.run(self, x, rows=rows)
        if self.pool == "class":
            return self.norm(x)
        if self.has_class_token:
            x = x[:, 1:]
        normalised = self.norm(x)
        first = mean_of(normalised)
        if self.pool == "mean_before_norm":
            first = self.norm(mean_of(x))
        return jnp.concatenate([first[:, None], normalised], axis=1)


def mean_of(patches, mask=None):
    """Mean f[B D] of patches f[B N D] where mask bool[B N] is True; summed in float32.

    A row whose mask is empty (padding) gets zeros, not NaN.
    """
    if mask is None:
        return patches.mean(axis=1, dtype=jnp.float32).astype(patches.dtype)
    total = jnp.einsum(
        "bn,bnd->bd", mask.astype(patches.dtype), patches, preferred_element_type=jnp.float32
    )
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return (total / count).astype(patches.dtype)


def _for_heads(mask):
    """A mask bool[B K] or bool[B Q K] with the axes of attention logits [B H Q K]."""
    if mask is None:
        return None
    return mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
