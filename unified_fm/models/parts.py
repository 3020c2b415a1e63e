"""What the models set up alike: their options for texts and images, and what is made of these.

A model inherits the parts that it has, restates the options whose default is another, and makes the
encoders between them in its own `setup`. Submodules keep the names that checkpoints know.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.models.base import Ask, Batch, Model
from unified_fm.models.config import EncoderConfig, check_patches, encoder_config
from unified_fm.models.embeddings import (
    OFFSETS,
    PatchEmbed,
    TextEmbed,
    normalised,
    positions_before,
)
from unified_fm.models.heads import class_dense, l2_normalised
from unified_fm.models.passes import READ, Found, Readers
from unified_fm.models.views import Views


class Stacks(Model):
    """A model of transformer stacks that are all computed in one way.

    Attributes:
        encoders: {"text", "vision": what its encoder is unless the option of this name says
            otherwise}, as far as the model has such options.
        dtype, remat, layer_loop, attention: of all encoders, see `EncoderConfig`.
    """

    encoders = MappingProxyType({})
    dtype: str = "float32"
    remat: str = "none"
    layer_loop: str = "auto"
    attention: str = "auto"

    def __call__(self, batch: Batch) -> Views:
        """Encodes every view that the batch has the input of, each in a pass of its own.

        The batch is one group of rows: `image_index` counts all of its images.

        Args:
            batch: any of `text i32[B L]` with `text_mask bool[B L]` (True for the first
                tokens of a row, False for the padding behind them), `text_masked i32[B L]`,
                `segments i32[B L]`, `image u8[I H W 3]` (or float, already normalised),
                `patch_mask bool[I N]`; for regions also `image_index i32[B]` and
                `region_mask bool[B N]`. What a model does not know it ignores.
        """
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        ask = Ask(reads=dict.fromkeys(self.gives(batch), True), key=key)
        return self.encode({"": batch}, {"": ask}, joint=False)[""]

    def encode(
        self, batches: Mapping[str, Batch], asks: Mapping[str, Ask], *, joint: bool = True
    ) -> dict[str, Views]:
        """The views that are read of several streams' batches, in as few passes as can be.

        Args:
            batches: {stream: batch}, see `__call__`.
            asks: what is asked of each.
            joint: join rows of one shape; else every view has a pass of its own.

        Returns:
            {stream: views}; what is not read, and not needed for what is, is None.
        """
        found: Found = {}
        for kind, (embed, encode) in self.readers.items():
            found |= READ[kind](embed, encode, batches, asks, joint=joint)
        made = {}
        for name, batch in batches.items():
            views = {view: x for (stream, view), x in found.items() if stream == name}
            made[name] = Views(groups=asks[name].groups, **self.with_rows(views, batch, asks[name]))
        return made

    @property
    def readers(self) -> Readers:
        """{"text", "image": what embeds and what encodes it}, see `passes.READ`.

        Raises:
            NotImplementedError: a model that derives from a part has it, or `encode` of its own.
        """
        raise NotImplementedError(
            f"{type(self).__module__} encodes nothing: write readers (see models.passes), or "
            "__call__ and encode"
        )

    def with_rows(self, views: dict[str, Any], batch: Batch, ask: Ask) -> dict[str, Any]:
        """With what is made of the views of one batch."""
        del batch, ask
        return views | ({"pooled": views["image"][:, 0]} if "image" in views else {})

    @nn.nowrap
    def check(self) -> None:
        super().check()
        self.towers()  # refuses wrong numbers of an encoder

    @nn.nowrap
    def towers(self) -> Mapping[str, EncoderConfig]:
        return {name: self.stack(getattr(self, name), own) for name, own in self.encoders.items()}

    @nn.nowrap
    def stack(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> EncoderConfig:
        """One stack: the model's defaults, overridden by the option `given`."""
        names = ("dtype", "remat", "layer_loop", "attention")
        common = {name: getattr(self, name) for name in names}
        return encoder_config(given, **defaults, **common)


class TextPart(Stacks):
    """A model with a text embedding.

    Attributes:
        vocab_size: number of words.
        max_positions, token_types, pad_id, position_offset: see `TextEmbed`.
        word_std, position_std: of the initial embeddings.
    """

    vocab_size: int = 30522
    max_positions: int = 512
    token_types: int = 2
    pad_id: int = 0
    position_offset: str = "bert"
    word_std: float = 0.02
    position_std: float = 0.02

    @nn.nowrap
    def check(self) -> None:
        choices.check("position_offset", self.position_offset, OFFSETS)
        super().check()

    @nn.nowrap
    def longest_text(self) -> int:
        return self.max_positions - positions_before(self.position_offset, self.pad_id)

    @nn.nowrap
    def make_text_embed(self, config: EncoderConfig) -> TextEmbed:
        """The embedding before the encoder of `config`, for `setup`."""
        return TextEmbed(
            config,
            vocabulary=self.vocab_size,
            positions=self.max_positions,
            segments=self.token_types,
            pad_id=self.pad_id,
            position_offset=self.position_offset,
            word_std=self.word_std,
            position_std=self.position_std,
        )


class ImagePart(Stacks):
    """A model with a patch embedding.

    Attributes:
        image_size, patch_size: in pixels.
        mean, std: of image channels in 0..1; uint8 images are normalised with them.
    """

    image_size: int = 224
    patch_size: int = 16
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @nn.nowrap
    def check(self) -> None:
        check_patches(self.image_size, self.patch_size)
        super().check()

    @nn.nowrap
    def grid(self) -> dict[str, Any]:
        """`grid`, patches on a side, and `patches`, all: arguments of `Vision`."""
        side = self.image_size // self.patch_size
        return {"grid": side, "patches": side * side}

    def normalised(self, image: jax.Array) -> jax.Array:
        """Images f32[I H W 3] as the model takes them, of u8[I H W 3]."""
        return normalised(image, self.mean, self.std)

    @nn.nowrap
    def make_patch_embed(self, config: EncoderConfig, *, use_bias: bool = True) -> PatchEmbed:
        """The embedding before the encoder of `config`, for `setup`."""
        sizes = self.image_size, self.patch_size
        return PatchEmbed(config, *sizes, tuple(self.mean), tuple(self.std), use_bias=use_bias)


class PairPart(Stacks):
    """A model with a common space of texts and images: `text_proj` and `image_proj`."""

    def text_feature(self, views: Views) -> jax.Array:
        """L2-normalised projection f32[B E] of each text's slot 0."""
        return l2_normalised(self.text_proj(cast(jax.Array, views.text)[:, 0]))

    def image_feature(self, views: Views) -> jax.Array:
        """L2-normalised projection f32[B E] of each row's pooled image or region."""
        return l2_normalised(self.image_proj(views.pooled))

    def scale(self) -> jax.Array:
        """What cosines are multiplied by before a softmax, f32[]: over the temperature.

        Raises:
            NotImplementedError: a model that derives from this part has one, of its own.
        """
        raise NotImplementedError(f"{type(self).__module__} has no temperature: write scale()")


class ClassPart(ImagePart):
    """A model of images that may have a head for their classes.

    Attributes:
        classes: of the image head; None = it has none.
        pre_logits: width of a dense layer with tanh below the image head, or None.
        head_bias: initial bias of the image head; -10 for sigmoid losses over many classes, so that
            the first loss is small.
        mask_token: have a token for masked patches, for masked image modelling.
    """

    classes: int | None = None
    pre_logits: int | None = None
    head_bias: float = 0.0
    mask_token: bool = False

    @nn.nowrap
    def gives(self, keys: Collection[str]) -> frozenset[str]:
        return super().gives(keys) - (set() if self.mask_token else {"image_masked"})

    @nn.nowrap
    def make_image_head(self) -> None:
        """Makes `pre_logits` and `image_head`, in `setup`."""
        if self.pre_logits:
            self.before_logits = nn.Dense(self.pre_logits, name="pre_logits")
        if self.classes:
            self.classifier = class_dense(self.classes, self.head_bias, name="image_head")

    def image_head(self, x: jax.Array) -> jax.Array:
        """Class logits f32[... C] of summaries x f[... D].

        Raises:
            ValueError: the model was made without classes.
        """
        if not self.classes:
            raise ValueError("this model has no image head: set its option `classes`")
        if self.pre_logits:
            x = jnp.tanh(self.before_logits(x))
        return self.classifier(x.astype(jnp.float32))
