"""X-FM: a language, a vision and a fusion encoder (arXiv 2301.05065, and its published system)."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm import placement
from unified_fm.groups import take
from unified_fm.models.base import Ask, Batch
from unified_fm.models.config import EncoderConfig, Fields
from unified_fm.models.decoder import TextDecoder
from unified_fm.models.encoders import Encoder, Vision, mean_of
from unified_fm.models.heads import MlmHead, PairHead, default_dense
from unified_fm.models.memory import Fusing, ImageMemory, look_together
from unified_fm.models.parts import ImagePart, PairPart, TextPart
from unified_fm.models.passes import Readers
from unified_fm.models.rows import Rows
from unified_fm.models.views import Views

# What an encoder is unless its dict says otherwise: RoBERTa, BEiT-2 and a RoBERTa with
# cross-attention, at base size.
TEXT = {"norm": "post", "eps": 1e-5, "dropout": 0.1, "attention_dropout": 0.1}
FUSION = TEXT
VISION = {
    "norm": "pre",
    "eps": 1e-6,
    "drop_path": 0.1,
    "layer_scale": 0.1,
    "relative_position_bias": True,
    "key_bias": False,
    "init": "truncated_normal",
    "residual_init_scale": "layer",
}


class Model(TextPart, ImagePart, PairPart):
    """The three encoders and their heads. Calling it on a batch returns `Views`.

    Attributes:
        projection_dim: size of the contrastive features.
        text, vision, fusion: fields of `EncoderConfig` that differ from TEXT, VISION and FUSION.
        class_token: give the vision layers a class token (its output is not used).
        absolute_positions: add learned patch positions; from scratch the relative biases alone
            locate nothing in a short run.
        patch_position_std: of the initial values of these positions.
        init_temperature: initial divisor of the cosines.
        Others: of `TextPart` (the defaults are RoBERTa's) and `ImagePart`.
    """

    encoders = MappingProxyType({"text": TEXT, "vision": VISION})

    vocab_size: int = 50265
    max_positions: int = 514
    token_types: int = 1
    pad_id: int = 1
    position_offset: str = "roberta"
    projection_dim: int = 256
    text: Fields = dataclasses.field(default_factory=dict)
    vision: Fields = dataclasses.field(default_factory=dict)
    fusion: Fields = dataclasses.field(default_factory=dict)
    class_token: bool = True
    absolute_positions: bool = False
    patch_position_std: float = 0.02
    init_temperature: float = 0.07
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def setup(self):
        self.check()
        stacks = self._stacks()
        self._make_encoders(*stacks)
        self._make_heads(*stacks)

    @nn.nowrap
    def check(self) -> None:
        super().check()
        text, _, fusion = self._stacks()
        if text.width != fusion.width:
            raise ValueError(
                f"the fusion encoder (width {fusion.width}) starts from the states of the language "
                f"encoder (width {text.width}): the widths must be equal"
            )

    @nn.nowrap
    def text_decoder(self, fields: Mapping[str, Any] | None = None) -> TextDecoder:
        """A decoder with the fusion encoder's layers and the language encoder's embeddings."""
        return TextDecoder(
            self.stack({**self.fusion, **(fields or {})}, FUSION),
            vocabulary=self.vocab_size,
            positions=self.max_positions,
            segments=self.token_types,
            pad_id=self.pad_id,
            position_offset=self.position_offset,
            word_std=self.word_std,
            position_std=self.position_std,
            parent=None,  # whoever attaches it is
        )

    @nn.nowrap
    def _stacks(self) -> tuple[EncoderConfig, EncoderConfig, EncoderConfig]:
        text, vision = self.towers().values()
        return text, vision, self.stack(self.fusion, FUSION)

    def _make_encoders(
        self, text: EncoderConfig, vision: EncoderConfig, fusion: EncoderConfig
    ) -> None:
        self.text_embed = self.make_text_embed(text)
        self.text_encoder = Encoder(text, padded=True, name="text")
        self.patch_embed = self.make_patch_embed(vision)
        self.vision_encoder = Vision(
            vision,
            **self.grid(),
            has_class_token=self.class_token,
            absolute_positions=self.absolute_positions,
            position_std=self.patch_position_std,
            name="vision",
        )
        self.fusion_encoder = Encoder(fusion, cross_attention=True, padded=True, name="fusion")

    def _make_heads(
        self, text: EncoderConfig, vision: EncoderConfig, fusion: EncoderConfig
    ) -> None:
        self.text_proj = default_dense(self.projection_dim, text.width, "float32")
        self.image_proj = default_dense(self.projection_dim, vision.width, "float32")
        init = nn.initializers.constant(self.init_temperature)
        self.temperature = self.param("temperature", init, ())
        self.mlm_head = MlmHead(text, self.vocab_size, tied=self.text_embed)
        self.fusion_mlm_head = MlmHead(fusion, self.vocab_size)
        self.itm_head = PairHead(2, dtype=self.dtype)
        self.box_head = PairHead(4, activation="sigmoid", dtype=self.dtype)
        self.mim_head = nn.Dense(3 * self.patch_size**2)  # of `pixels`; the published one has none

    @property
    def readers(self) -> Readers:
        return {
            "text": (self.text_embed, self.text_encoder),
            "image": (self.patch_embed, self.vision_encoder),
        }

    def with_rows(self, views: dict[str, Any], batch: Batch, ask: Ask) -> dict[str, Any]:
        """With what each row of the batch sees of the images: pooled summary and fusion memory."""
        if "image" not in views:
            return views
        image = views["image"]
        pooled, memory = image[:, 0], ImageMemory(image, groups=ask.groups)
        if "image_index" in batch:
            index, mask = batch["image_index"], batch["region_mask"]
            pooled = mean_of(take(image[:, 1:], index, ask.groups), mask)
            memory = ImageMemory(image, pooled, index, mask, groups=ask.groups)
        # Without texts there is nobody to look at the images.
        return views | {"pooled": pooled, "image_memory": memory if "text" in batch else None}

    def remember(self, image: jax.Array) -> ImageMemory:
        """The fusion memory of images f[I 1+N D], projected, for texts that come again."""
        return ImageMemory(layers=self.fusion_encoder.project_memory(image))

    def fuse(
        self,
        *,
        text: jax.Array,
        text_mask: jax.Array,
        memory: ImageMemory,
        rows: jax.Array | None = None,
        view: str = "row",
    ) -> jax.Array:
        """Fusion states f[B' L D] of texts that look at images.

        Args:
            text: f[B' L D], states of the language encoder.
            text_mask: bool[B' L].
            memory: `views.image_memory`.
            rows: i32[B'], which row's image each text looks at, by its place in its group (text b
                is in group b // (B' / groups)); None = text b at row b.
            view: "row" (a region row shows its region) or "image" (its whole image).
        """
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        asked = Fusing(text=text, text_mask=text_mask, memory=memory, rows=rows, view=view, key=key)
        return self.fuse_together([asked])[0]

    def fuse_together(self, asked: Sequence[Fusing]) -> list[jax.Array]:
        """Fusion states f[B' L D] for each of several calls of `fuse`, in as few passes as can be.

        Texts of one length go through the encoder together; those that look at the same rows of
        the same memory share keys and values.
        """
        found: list[Any] = [None] * len(asked)
        lengths: dict[Any, list[int]] = {}
        for number, each in enumerate(asked):
            chex.assert_rank(each.text, 3)
            chex.assert_shape(each.text_mask, each.text.shape[:2])
            kind = (each.text.shape[1:], each.key is None)
            lengths.setdefault(kind, []).append(number)
        for (_, unkeyed), numbers in lengths.items():
            parts = [asked[number] for number in numbers]
            keys: Any = None if unkeyed else tuple(part.key for part in parts)
            shards = placement.current().shards
            rows = Rows(tuple(len(part.text) for part in parts), shards, keys=keys)
            looks = look_together([(p.memory, p.rows, p.view) for p in parts], shards)
            text, mask = rows.join(p.text for p in parts), rows.join(p.text_mask for p in parts)
            fused = self.fusion_encoder(text, mask, rows, looks)
            for number, states in zip(numbers, rows.cut(fused), strict=True):
                found[number] = states
        return found

    def similarity(self, views: Views) -> jax.Array:
        """Cosines over the temperature, f32[text image]."""
        return self.text_feature(views) @ self.image_feature(views).T / self.clipped_temperature()

    def scale(self) -> jax.Array:
        return 1 / self.clipped_temperature()

    def clipped_temperature(self) -> jax.Array:
        """The temperature within [0.001, 0.5].

        A clip inside the graph has no gradient beyond its ends and would never let the parameter
        come back, so the gradient goes straight through. (X-FM section 1.5)
        """
        inside = jax.lax.stop_gradient(jnp.clip(self.temperature, 0.001, 0.5))
        # The difference is exactly 0; only its gradient counts.
        return inside + (self.temperature - jax.lax.stop_gradient(self.temperature))
