"""ViT: a pre-LN image encoder with a class token and positions (arXiv 2010.11929).

A teacher of UFM, a model to pre-train, and what converted ViT and BEiT checkpoints run in.
"""

import dataclasses
from types import MappingProxyType

from unified_fm.models.config import Fields
from unified_fm.models.encoders import Vision
from unified_fm.models.parts import ClassPart
from unified_fm.models.passes import Readers

# What the encoder is unless its dict says otherwise. Google's own files want gelu="tanh", those of
# Hugging Face an eps of 1e-12.
VISION = {"norm": "pre", "eps": 1e-6, "init": "truncated_normal"}


class Model(ClassPart):
    """An image encoder and its head. Calling it on a batch returns `Views`.

    Attributes:
        vision: fields of `EncoderConfig` that differ from VISION.
        pool: see `Vision`.
        absolute_positions: see `VisionTokens`.
        position_std: of the initial positions.
        Others: of `ClassPart` and `ImagePart`.
    """

    encoders = MappingProxyType({"vision": VISION})
    views = ("image", "pooled", "image_masked")

    vision: Fields = dataclasses.field(default_factory=dict)
    pool: str = "class"
    absolute_positions: bool = True
    position_std: float = 0.02

    def setup(self):
        vision = self.towers()["vision"]
        self.patch_embed = self.make_patch_embed(vision)
        self.vision_encoder = Vision(
            vision,
            **self.grid(),
            has_mask_token=self.mask_token,
            absolute_positions=self.absolute_positions,
            position_std=self.position_std,
            pool=self.pool,
            name="vision",
        )
        self.make_image_head()

    @property
    def readers(self) -> Readers:
        return {"image": (self.patch_embed, self.vision_encoder)}
