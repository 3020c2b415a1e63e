"""BERT: a post-LN text encoder with its heads (arXiv 1810.04805); also RoBERTa, by its options.

A teacher of UFM, a model to pre-train, and what converted checkpoints run in.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from unified_fm.models.config import Fields, choose, encoder_config
from unified_fm.models.embeddings import OFFSETS, TextEmbed
from unified_fm.models.encoders import Encoder
from unified_fm.models.heads import MlmHead
from unified_fm.models.targets import text_targets
from unified_fm.models.views import Views

# What the encoder is unless its dict says otherwise. Google's own files want gelu="tanh".
TEXT = {"norm": "post", "eps": 1e-12, "dropout": 0.1, "attention_dropout": 0.1}


class Model(nn.Module):
    """A text encoder and its heads. Calling it on a batch returns `Views`.

    Attributes:
        vocab_size: number of words.
        text: fields of `EncoderConfig` that differ from TEXT.
        max_positions, token_types, pad_id, position_offset: see `TextEmbed`; the defaults are
            BERT's.
        head_gelu: activation of the MLM head; None = the encoder's. RoBERTa's is always "erf".
        word_std, position_std: of the initial embeddings.
        dtype, remat, attention: see `EncoderConfig`.
    """

    vocab_size: int = 30522
    text: Fields = dataclasses.field(default_factory=dict)
    max_positions: int = 512
    token_types: int = 2
    pad_id: int = 0
    position_offset: str = "bert"
    head_gelu: str | None = None
    word_std: float = 0.02
    position_std: float = 0.02
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def setup(self):
        text = self._stack()
        self.text_embed = TextEmbed(
            text,
            vocabulary=self.vocab_size,
            positions=self.max_positions,
            segments=self.token_types,
            pad_id=self.pad_id,
            position_offset=self.position_offset,
            word_std=self.word_std,
            position_std=self.position_std,
        )
        self.encoder = Encoder(text, name="text")
        head = dataclasses.replace(text, gelu=self.head_gelu or text.gelu)
        self.mlm_head = MlmHead(head, self.vocab_size, tied=self.text_embed)
        init = nn.initializers.normal(text.init_std)
        self.pooler = nn.Dense(text.width, dtype=text.compute_dtype, kernel_init=init)
        self.next_sentence_head = nn.Dense(2, kernel_init=init)

    @nn.nowrap
    def check(self) -> None:
        """Refuses options that cannot work; runs when a config is read, so without a device."""
        choose("position_offset", self.position_offset, OFFSETS)
        self._stack()

    @nn.nowrap
    def _stack(self):
        common = {"dtype": self.dtype, "remat": self.remat, "attention": self.attention}
        return encoder_config(self.text, **TEXT, **common)

    def __call__(self, batch) -> Views:
        """Encodes the texts of a batch.

        Args:
            batch: `text i32[B L]` and/or `text_masked i32[B L]`, with `text_mask bool[B L]` and
                optionally `segments i32[B L]` (0 or 1; absent = all 0).
        """
        views = {}
        for name in ("text", "text_masked"):
            if name in batch:
                x = self.text_embed(batch[name], batch.get("segments"))
                views[name] = self.encoder(x, batch["text_mask"])
        return Views(**views)

    def pooled_text(self, text):
        """BERT's summary f[B D] of texts f[B L D]: a dense layer and a tanh on the first token."""
        return jnp.tanh(self.pooler(text[:, 0]))

    def next_sentence(self, text):
        """Logits f32[B 2] of texts f[B L D]: class 0 = the second sentence follows the first."""
        return self.next_sentence_head(self.pooled_text(text)).astype(jnp.float32)

    def targets(self, batch) -> dict:
        """What this model teaches; see `models.targets`."""
        return text_targets(self, self(batch), batch)
