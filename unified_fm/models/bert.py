"""BERT: a post-LN text encoder with its heads (arXiv 1810.04805); also RoBERTa, by its options.

A teacher of UFM, a model to pre-train, and what converted checkpoints run in.
"""

import dataclasses
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm.models.config import Fields
from unified_fm.models.encoders import Encoder
from unified_fm.models.heads import MlmHead
from unified_fm.models.parts import TextPart
from unified_fm.models.passes import Readers

# What the encoder is unless its dict says otherwise. Google's own files want gelu="tanh".
TEXT = {"norm": "post", "eps": 1e-12, "dropout": 0.1, "attention_dropout": 0.1}


class Model(TextPart):
    """A text encoder and its heads. Calling it on a batch returns `Views`.

    Attributes:
        text: fields of `EncoderConfig` that differ from TEXT.
        head_gelu: activation of the MLM head; None = the encoder's. RoBERTa's is always "erf".
        Others: of `TextPart`; their defaults are BERT's.
    """

    encoders = MappingProxyType({"text": TEXT})
    views = ("text", "text_masked")
    sentence_head = "pooled"

    text: Fields = dataclasses.field(default_factory=dict)
    head_gelu: str | None = None

    def setup(self):
        text = self.towers()["text"]
        self.text_embed = self.make_text_embed(text)
        self.text_encoder = Encoder(text, padded=True, name="text")
        head = dataclasses.replace(text, gelu=self.head_gelu or text.gelu)
        self.mlm_head = MlmHead(head, self.vocab_size, tied=self.text_embed)
        init = nn.initializers.normal(text.init_std)
        self.pooler = nn.Dense(text.width, dtype=text.compute_dtype, kernel_init=init)
        self.next_sentence_head = nn.Dense(2, kernel_init=init)

    @property
    def readers(self) -> Readers:
        return {"text": (self.text_embed, self.text_encoder)}

    def pooled_text(self, text: jax.Array) -> jax.Array:
        """BERT's summary f[B D] of texts f[B L D]: a dense layer and a tanh on the first token."""
        return jnp.tanh(self.pooler(text[:, 0]))

    def next_sentence(self, text: jax.Array) -> jax.Array:
        """Logits f32[B 2] of texts f[B L D]: class 0 = the second sentence follows the first."""
        return self.next_sentence_head(self.pooled_text(text)).astype(jnp.float32)
