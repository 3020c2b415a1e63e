"""UFM: one transformer encoder shared by images and text (arXiv 2112.07074).

The paper says: modality-specific tokenizers, a shared encoder, task-specific heads. The form of
each part is our choice: ViT's tokenizer for images, BERT's for text, ViT's pre-LN layers.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from unified_fm.models.config import Fields, check_patches, choose, encoder_config
from unified_fm.models.embeddings import OFFSETS, PatchEmbed, TextEmbed, VisionTokens
from unified_fm.models.encoders import Encoder, mean_of
from unified_fm.models.heads import MlmHead, class_dense
from unified_fm.models.targets import image_targets, text_targets
from unified_fm.models.views import Views

# What the shared encoder is unless its dict says otherwise.
ENCODER = {"norm": "pre", "eps": 1e-6, "init": "truncated_normal"}
_IMAGE, _TEXT = 0, 1  # rows of the modality embedding


class Model(nn.Module):
    """Two tokenizers, one encoder, and heads. Calling it on a batch returns `Views`.

    Attributes:
        vocab_size: number of words.
        image_size, patch_size: in pixels.
        classes: of the image head; None = it has none.
        encoder: fields of `EncoderConfig` that differ from ENCODER. norm="pre" can start from ViT's
            weights exactly, norm="post" from BERT's.
        max_positions, token_types, pad_id, position_offset: see `TextEmbed`.
        text_eps: of the norms of text embedding and MLM head.
        mask_token: have a token for masked patches, for masked image modelling.
        pool: the summary of an image: "class" (its token) or "mean" of its patches.
        modality_embedding: add a learned vector that says whether a token is of image or text.
        pre_logits: width of a dense layer with tanh below the image head, or None.
        head_bias: initial bias of the image head; -10 for sigmoid losses over many classes.
        word_std, position_std, patch_position_std: of the initial embeddings.
        mean, std: of image channels in 0..1; uint8 images are normalised with them.
        dtype, remat, attention: see `EncoderConfig`.
    """

    vocab_size: int = 30522
    image_size: int = 224
    patch_size: int = 16
    classes: int | None = None
    encoder: Fields = dataclasses.field(default_factory=dict)
    max_positions: int = 512
    token_types: int = 2
    pad_id: int = 0
    position_offset: str = "bert"
    text_eps: float = 1e-12
    mask_token: bool = False
    pool: str = "class"
    modality_embedding: bool = False
    pre_logits: int | None = None
    head_bias: float = 0.0
    word_std: float = 0.02
    position_std: float = 0.02
    patch_position_std: float = 0.02
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def setup(self):
        self.check()
        shared = self._stack()
        text = dataclasses.replace(shared, eps=self.text_eps)
        self._make_tokenizers(shared, text)
        self.shared = Encoder(shared, name="encoder")

        self.mlm_head = MlmHead(text, self.vocab_size, tied=self.text_embed)
        if self.pre_logits:
            self.before_logits = nn.Dense(self.pre_logits, name="pre_logits")
        if self.classes:
            self.classifier = class_dense(self.classes, self.head_bias, name="image_head")
        self.mim_head = nn.Dense(3 * self.patch_size**2)

    @nn.nowrap
    def check(self) -> None:
        """Refuses options that cannot work; runs when a config is read, so without a device."""
        choose("pool", self.pool, ("class", "mean"))
        choose("position_offset", self.position_offset, OFFSETS)
        check_patches(self.image_size, self.patch_size)
        self._stack()

    @nn.nowrap
    def _stack(self):
        common = {"dtype": self.dtype, "remat": self.remat, "attention": self.attention}
        return encoder_config(self.encoder, **ENCODER, **common)

    def _make_tokenizers(self, shared, text):
        grid = self.image_size // self.patch_size
        self.patch_embed = PatchEmbed(
            shared, self.image_size, self.patch_size, tuple(self.mean), tuple(self.std)
        )
        self.vision = VisionTokens(
            shared,
            patches=grid * grid,
            has_mask_token=self.mask_token,
            absolute_positions=True,
            position_std=self.patch_position_std,
        )
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
        if self.modality_embedding:
            init = nn.initializers.normal(0.02)
            self.modality_embed = nn.Embed(2, shared.width, embedding_init=init)

    def __call__(self, batch) -> Views:
        """Encodes every view that the batch has the input of.

        Args:
            batch: any of `text i32[B L]`, `text_masked i32[B L]` with `text_mask bool[B L]` and
                optionally `segments i32[B L]`; `image u8[B H W 3]` (or float, already normalised)
                with optionally `patch_mask bool[B N]`, which a model without mask token ignores.
        """
        views = {}
        for name in ("text", "text_masked"):
            if name in batch:
                x = self._with_modality(self.text_embed(batch[name], batch.get("segments")), _TEXT)
                views[name] = self.shared(x, batch["text_mask"])
        if "image" in batch:
            patches = self.patch_embed(batch["image"])
            views["image"] = self._encode_image(patches)
            views["pooled"] = views["image"][:, 0]
            if self.mask_token and "patch_mask" in batch:
                views["image_masked"] = self._encode_image(patches, batch["patch_mask"])
        return Views(**views)

    def image_head(self, x):
        """Class logits f32[... C] of summaries x f[... D].

        Raises:
            ValueError: the model was made without classes.
        """
        if not self.classes:
            raise ValueError("this model has no image head: set its option `classes`")
        if self.pre_logits:
            x = jnp.tanh(self.before_logits(x))
        return self.classifier(x.astype(jnp.float32))

    def targets(self, batch) -> dict:
        """What this model teaches; see `models.targets`."""
        views = self(batch)
        return text_targets(self, views, batch) | image_targets(self, views)

    def _encode_image(self, patches, patch_mask=None):
        """f[B 1+N D], slot 0 the summary, of patch embeddings f[B N D]."""
        x = self.shared(self._with_modality(self.vision.tokens(patches, patch_mask), _IMAGE))
        if self.pool == "mean":
            x = x.at[:, 0].set(mean_of(x[:, 1:]))
        return x

    def _with_modality(self, x, which):
        if not self.modality_embedding:
            return x
        return x + self.modality_embed.embedding[which].astype(x.dtype)
