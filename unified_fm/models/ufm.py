"""UFM: one transformer encoder shared by images and text (arXiv 2112.07074).

The paper says: modality-specific tokenizers, a shared encoder, task-specific heads. The form of
each part is our choice: ViT's tokenizer for images, BERT's for text, ViT's pre-LN layers.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.models.config import EncoderConfig, Fields
from unified_fm.models.embeddings import VisionTokens
from unified_fm.models.encoders import Encoder, mean_of
from unified_fm.models.heads import MlmHead
from unified_fm.models.parts import ClassPart, TextPart
from unified_fm.models.passes import Readers
from unified_fm.models.rows import EMBEDDING, Rows

# What the shared encoder is unless its dict says otherwise.
ENCODER = {"norm": "pre", "eps": 1e-6, "init": "truncated_normal"}
_IMAGE, _TEXT = 0, 1  # rows of the modality embedding


class Model(TextPart, ClassPart):
    """Two tokenizers, one encoder, and heads. Calling it on a batch returns `Views`.

    Attributes:
        encoder: fields of `EncoderConfig` that differ from ENCODER. norm="pre" can start from ViT's
            weights exactly, norm="post" from BERT's.
        text_eps: of the norms of text embedding and MLM head.
        pool: the summary of an image: "class" (its token) or "mean" of its patches.
        modality_embedding: add a learned vector that says whether a token is of image or text.
        patch_position_std: of the initial positions of patches.
        Others: of `TextPart`, `ClassPart` and `ImagePart`.
    """

    views = ("text", "text_masked", "image", "pooled", "image_masked")
    sentence_head = "pooled"

    encoder: Fields = dataclasses.field(default_factory=dict)
    text_eps: float = 1e-12
    pool: str = "class"
    modality_embedding: bool = False
    patch_position_std: float = 0.02

    def setup(self):
        self.check()
        shared = self.stack(self.encoder, ENCODER)
        text = dataclasses.replace(shared, eps=self.text_eps)
        self._make_tokenizers(shared, text)
        # The parameters are named like the option, which has taken the attribute.
        self.shared_encoder = Encoder(shared, padded=True, name="encoder")
        self.mlm_head = MlmHead(text, self.vocab_size, tied=self.text_embed)
        self.make_image_head()
        self.mim_head = nn.Dense(3 * self.patch_size**2)

    @nn.nowrap
    def check(self) -> None:
        super().check()
        choices.check("pool", self.pool, ("class", "mean"))

    @nn.nowrap
    def towers(self) -> dict[str, EncoderConfig]:
        return dict.fromkeys(("text", "vision"), self.stack(self.encoder, ENCODER))

    def _make_tokenizers(self, shared: EncoderConfig, text: EncoderConfig) -> None:
        self.patch_embed = self.make_patch_embed(shared)
        self.vision = VisionTokens(
            shared,
            patches=self.grid()["patches"],
            has_mask_token=self.mask_token,
            absolute_positions=True,
            position_std=self.patch_position_std,
        )
        self.text_embed = self.make_text_embed(text)
        if self.modality_embedding:
            init = nn.initializers.normal(0.02)
            self.modality_embed = nn.Embed(2, shared.width, embedding_init=init)

    @property
    def readers(self) -> Readers:
        return {
            "text": (self.text_embed, self._encode_text),
            "image": (self.patch_embed, self._encode_image),
        }

    def _encode_text(self, x: jax.Array, mask: jax.Array, rows: Rows) -> jax.Array:
        return self.shared_encoder(self._with_modality(x, _TEXT), mask, rows)

    def _encode_image(self, patches: jax.Array, patch_mask: Any, rows: Rows) -> jax.Array:
        """f[B 1+N D], slot 0 the summary, of patch embeddings f[B N D]."""
        tokens = self.vision.tokens(patches, patch_mask, rows.fold(EMBEDDING))
        x = self.shared_encoder(self._with_modality(tokens, _IMAGE), None, rows)
        if self.pool == "mean":
            x = x.at[:, 0].set(mean_of(x[:, 1:]))
        return x

    def _with_modality(self, x: jax.Array, which: int) -> jax.Array:
        if not self.modality_embedding:
            return x
        # Repeated before it is rounded: its gradient is summed in float32.
        return x + jnp.broadcast_to(self.modality_embed.embedding[which], x.shape).astype(x.dtype)
