"""CLIP: a causal text tower and a ViT with a common space (arXiv 2103.00020).

For comparison with X-FM, and what converted CLIP checkpoints run in. The retrieval evaluator takes
it as it is.
"""

import dataclasses
import math
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm.models.base import Ask, Batch
from unified_fm.models.config import Fields
from unified_fm.models.embeddings import TextEmbed
from unified_fm.models.encoders import Encoder, Vision
from unified_fm.models.parts import ImagePart, PairPart
from unified_fm.models.passes import Readers
from unified_fm.models.rows import Rows
from unified_fm.models.views import Views

# What both towers are unless their dicts say otherwise; sizes of ViT-B/32.
TOWER = {"norm": "pre", "eps": 1e-5, "gelu": "quick"}
TEXT = TOWER | {"width": 512, "heads": 8, "mlp_width": 2048}


class Model(ImagePart, PairPart):
    """Two towers and their projections. Calling it on a batch returns `Views`.

    Attributes:
        vocab_size: number of words.
        end_id: id of the token that ends a text and summarises it; None = the highest id in each
            text, as the first published files count.
        projection_dim: size of the common space.
        text, vision: fields of `EncoderConfig` that differ from TEXT and TOWER.
        max_positions: longest text.
        word_std, position_std: of the initial embeddings.
        init_temperature: initial divisor of the cosines; the parameter is the logarithm of its
            inverse.
        Others: of `ImagePart`.
    """

    encoders = MappingProxyType({"text": TEXT, "vision": TOWER})
    views = ("text", "image", "pooled")

    vocab_size: int = 49408
    end_id: int | None = None
    patch_size: int = 32
    projection_dim: int = 512
    text: Fields = dataclasses.field(default_factory=dict)
    vision: Fields = dataclasses.field(default_factory=dict)
    max_positions: int = 77
    word_std: float = 0.02
    position_std: float = 0.01
    init_temperature: float = 0.07
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def setup(self):
        text, vision = self.towers().values()
        self.text_embed = TextEmbed(
            text,
            vocabulary=self.vocab_size,
            positions=self.max_positions,
            segments=0,
            position_offset="bert",
            word_std=self.word_std,
            position_std=self.position_std,
            normalised=False,
        )
        self.text_encoder = Encoder(text, name="text")
        self.patch_embed = self.make_patch_embed(vision, use_bias=False)
        self.vision_encoder = Vision(
            vision,
            **self.grid(),
            has_mask_token=False,
            absolute_positions=True,
            position_std=self.position_std,
            pool="class",
            has_pre_norm=True,
            name="vision",
        )
        self.text_proj = self._projection(text.width)
        self.image_proj = self._projection(vision.width)
        init = nn.initializers.constant(-math.log(self.init_temperature))
        self.logit_scale = self.param("logit_scale", init, ())

    @nn.nowrap
    def longest_text(self) -> int:
        return self.max_positions

    @property
    def readers(self) -> Readers:
        return {
            "text": (self.text_embed, self._encode_text),
            "image": (self.patch_embed, self.vision_encoder),
        }

    def with_rows(self, views: dict[str, Any], batch: Batch, ask: Ask) -> dict[str, Any]:
        """With `text` f[B 1+L D], slot 0 the state at the end token, and `pooled`."""
        views = super().with_rows(views, batch, ask)
        if "text" in views:
            ids = batch["text"]
            # argmax gives the first of equals.
            end = (ids if self.end_id is None else ids == self.end_id).argmax(axis=1)  # i32[B]
            last = jnp.take_along_axis(views["text"], end[:, None, None], axis=1)
            views["text"] = jnp.concatenate([last, views["text"]], axis=1)
        return views

    def _encode_text(self, x: jax.Array, mask: jax.Array, rows: Rows) -> jax.Array:
        causal = jnp.tri(x.shape[1], dtype=bool)  # bool[L L]: only what came before
        return self.text_encoder(x, mask[:, None] & causal, rows)

    def similarity(self, views: Views) -> jax.Array:
        """Cosines over the temperature, f32[text image].

        The published training keeps the scale at most 100 by changing the parameter after each
        step: `optimizer.project = (("logit_scale", (0.0, 4.6052)),)`.
        """
        return self.text_feature(views) @ self.image_feature(views).T * self.scale()

    def scale(self) -> jax.Array:
        return jnp.exp(self.logit_scale)

    def _projection(self, width: int) -> nn.Dense:
        init = nn.initializers.normal(width**-0.5)
        return nn.Dense(self.projection_dim, use_bias=False, kernel_init=init)
