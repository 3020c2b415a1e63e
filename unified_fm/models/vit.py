"""ViT: a pre-LN image encoder with a class token and positions (arXiv 2010.11929).

A teacher of UFM, a model to pre-train, and what converted ViT and BEiT checkpoints run in.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from unified_fm.models.config import Fields, check_patches, encoder_config
from unified_fm.models.embeddings import PatchEmbed
from unified_fm.models.encoders import Vision
from unified_fm.models.heads import class_dense
from unified_fm.models.targets import image_targets
from unified_fm.models.views import Views

# What the encoder is unless its dict says otherwise. Google's own files want gelu="tanh", those of
# Hugging Face an eps of 1e-12.
VISION = {"norm": "pre", "eps": 1e-6, "init": "truncated_normal"}


class Model(nn.Module):
    """An image encoder and its head. Calling it on a batch returns `Views`.

    Attributes:
        image_size, patch_size: in pixels.
        classes: of the image head; None = it has none.
        vision: fields of `EncoderConfig` that differ from VISION.
        pre_logits: width of a dense layer with tanh below the image head, or None.
        head_bias: initial bias of the image head; -10 for sigmoid losses over many classes, so that
            the first loss is small.
        pool: see `Vision`.
        absolute_positions, mask_token: see `VisionTokens`.
        position_std: of the initial positions.
        mean, std: of image channels in 0..1; uint8 images are normalised with them.
        dtype, remat, attention: see `EncoderConfig`.
    """

    image_size: int = 224
    patch_size: int = 16
    classes: int | None = None
    vision: Fields = dataclasses.field(default_factory=dict)
    pre_logits: int | None = None
    head_bias: float = 0.0
    pool: str = "class"
    absolute_positions: bool = True
    mask_token: bool = False
    position_std: float = 0.02
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    dtype: str = "float32"
    remat: str = "none"
    attention: str = "auto"

    def setup(self):
        vision = self._stack()
        grid = self.image_size // self.patch_size
        self.patch_embed = PatchEmbed(
            vision, self.image_size, self.patch_size, tuple(self.mean), tuple(self.std)
        )
        self.encoder = Vision(
            vision,
            patches=grid * grid,
            has_mask_token=self.mask_token,
            absolute_positions=self.absolute_positions,
            position_std=self.position_std,
            grid=grid,
            pool=self.pool,
            name="vision",
        )
        if self.pre_logits:
            self.before_logits = nn.Dense(self.pre_logits, name="pre_logits")
        if self.classes:
            self.classifier = class_dense(self.classes, self.head_bias, name="image_head")

    @nn.nowrap
    def check(self) -> None:
        """Refuses options that cannot work; runs when a config is read, so without a device."""
        check_patches(self.image_size, self.patch_size)
        self._stack()

    @nn.nowrap
    def _stack(self):
        common = {"dtype": self.dtype, "remat": self.remat, "attention": self.attention}
        return encoder_config(self.vision, **VISION, **common)

    def __call__(self, batch) -> Views:
        """Encodes the images of a batch.

        Args:
            batch: `image u8[B H W 3]` (or float, already normalised), optionally `patch_mask
                bool[B N]`, which a model without mask token ignores.
        """
        views = {}
        if "image" in batch:
            patches = self.patch_embed(batch["image"])
            views["image"] = self.encoder(patches)
            views["pooled"] = views["image"][:, 0]
            if self.mask_token and "patch_mask" in batch:
                views["image_masked"] = self.encoder(patches, batch["patch_mask"])
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
        return image_targets(self, self(batch))
