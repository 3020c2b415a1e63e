"""From ids and pixels to the first hidden states."""

import flax.linen as nn
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.models import draws
from unified_fm.models.config import EncoderConfig, check_patches
from unified_fm.models.layers import layer_norm
from unified_fm.models.rows import dropout

OFFSETS = ("roberta", "bert")


def positions_before(position_offset: str, pad_id: int) -> int:
    """How many position embeddings stand before that of a text's first token."""
    return pad_id + 1 if position_offset == "roberta" else 0


class TextEmbed(nn.Module):
    """Word, position and segment embeddings, summed, normalised and dropped out.

    Attributes:
        config: of the encoder that follows; gives width, eps, dropout and dtype.
        vocabulary: number of words.
        positions: number of position embeddings.
        segments: number of segment (token type) embeddings; 0 = none (CLIP).
        normalised: whether a norm follows the sum.
        pad_id: id of the padding token.
        position_offset: "roberta" numbers real tokens from pad_id + 1 and gives pads pad_id; "bert"
            numbers all tokens from 0.
        word_std, position_std, segment_std: of the initial normal distributions.
    """

    config: EncoderConfig
    vocabulary: int
    positions: int
    segments: int = 1
    pad_id: int = 1
    position_offset: str = "roberta"
    word_std: float = 0.02
    position_std: float = 0.02
    segment_std: float = 0.02
    normalised: bool = True

    def setup(self):
        choices.check("position_offset", self.position_offset, OFFSETS)
        self.word = self._table(self.vocabulary, self.word_std)
        self.position = self._table(self.positions, self.position_std)
        if self.segments:
            self.token_type = self._table(self.segments, self.segment_std)
        if self.normalised:
            self.norm = layer_norm(self.config)

    def __call__(self, ids, segments=None, rows=None):
        """Hidden states f[B L D] of ids i32[B L] with segments i32[B L] (None = all 0; so
        they are, too, where there is one embedding).

        `rows` has the keys of dropout; None = nothing is dropped.

        Raises:
            ValueError: the texts are longer than the position embeddings.
        """
        offset = positions_before(self.position_offset, self.pad_id)
        if ids.shape[1] + offset > self.positions:
            raise ValueError(
                f"texts of {ids.shape[1]} tokens need {ids.shape[1] + offset} position embeddings "
                f"({self.position_offset!r} numbering), but max_positions is {self.positions}"
            )
        x = self._rows_of(self.word, ids, ids.shape)
        x = x + self._rows_of(self.position, self._position_ids(ids), ids.shape)
        if self.segments:
            # Where all segments are the same one, those of a pair say nothing (RoBERTa, X-FM).
            known = segments is not None and self.segments > 1
            segments = segments if known else jnp.zeros_like(ids)
            x = x + self._rows_of(self.token_type, segments, ids.shape)
        return dropout(rows, self.norm(x) if self.normalised else x, self.config.dropout)

    def later(self, ids, place):
        """Hidden states f[B T D] of later tokens ids i32[B T], numbers `place` and on of each text.

        All are real tokens of segment 0, and nothing is dropped.
        """
        first = self.pad_id + 1 if self.position_offset == "roberta" else 0
        numbers = (place + first + jnp.arange(ids.shape[1]))[None]  # i32[1 T]
        x = self._rows_of(self.word, ids, ids.shape) + self._rows_of(
            self.position, numbers, ids.shape
        )
        if self.segments:
            x = x + self._rows_of(self.token_type, jnp.zeros_like(ids), ids.shape)
        return self.norm(x) if self.normalised else x

    def table(self):
        """The word embeddings f[V D], for a tied decoder."""
        return self.word.embedding

    def _position_ids(self, ids):
        if self.position_offset == "bert":
            return jnp.arange(ids.shape[1])[None]  # i32[1 L]
        # RoBERTa counts real tokens, told by their ids and not by the attention mask.
        real = (ids != self.pad_id).astype(jnp.int32)
        return jnp.cumsum(real, axis=1) * real + self.pad_id  # i32[B L]

    def _rows_of(self, table, ids, shape):
        """Rows f[B L D] of a table. They become of lower precision after they are gathered and
        repeated, so that their gradients are summed in float32: a frequent word's are thousands."""
        rows = jnp.broadcast_to(table(ids), (*shape, self.config.width))
        return rows.astype(self.config.compute_dtype)

    def _table(self, rows, std):
        init = nn.initializers.normal(std)
        return nn.Embed(rows, self.config.width, dtype=jnp.float32, embedding_init=init)


class PatchEmbed(nn.Module):
    """Square patches of an image, each through one linear map: a convolution of stride p.

    Attributes:
        config: of the encoder that follows.
        image_size, patch_size: in pixels.
        mean, std: of the three channels in 0..1; they normalise uint8 images.
        use_bias: whether the map has a bias (CLIP's has none).
    """

    config: EncoderConfig
    image_size: int
    patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    use_bias: bool = True

    def setup(self):
        p = self.patch_size
        check_patches(self.image_size, p)
        shape = (p, p, 3, self.config.width)
        self.kernel = self.param("kernel", draws.uniform_fan_in, shape)
        if self.use_bias:
            self.bias = self.param("bias", draws.uniform(p * p * 3), shape[-1:])

    def __call__(self, image):
        """Patch embeddings f[B N D], row by row, of images u8[B H W 3] or normalised f[B H W 3].

        Raises:
            ValueError: the images have another size than the model was made for.
        """
        size, p = self.image_size, self.patch_size
        if image.shape[1:] != (size, size, 3):
            raise ValueError(f"images are {image.shape[1:]}, the model takes {(size, size, 3)}")
        if image.dtype == jnp.uint8:
            image = normalised(image, self.mean, self.std)
        grid = size // p
        image = image.astype(self.config.compute_dtype)
        patches = image.reshape(-1, grid, p, grid, p, 3).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(-1, grid * grid, p * p * 3)
        kernel = self.kernel.reshape(p * p * 3, -1).astype(patches.dtype)
        x = patches @ kernel
        return x + self.bias.astype(patches.dtype) if self.use_bias else x


def normalised(image, mean, std):
    """f32[... 3] of images u8[... 3] (or f[... 3], 0 to 255), by the channels' mean and deviation
    in 0..1."""
    return (image / 255.0 - jnp.array(mean)) / jnp.array(std)


class VisionTokens(nn.Module):
    """Patch embeddings with mask tokens, a class token and learned positions, each by choice.

    Attributes:
        config: of the encoder that follows.
        patches: how many patches an image has.
        class_token: prepend a learned token.
        mask_token: have a learned token that replaces masked patches.
        absolute_positions: add learned positions.
        position_std: standard deviation of their initial values.
    """

    config: EncoderConfig
    patches: int
    has_class_token: bool = True
    has_mask_token: bool = True
    absolute_positions: bool = False
    position_std: float = 0.02

    def setup(self):
        width = self.config.width
        token = nn.initializers.truncated_normal(0.02)
        if self.has_class_token:
            self.class_token = self.param("class_token", token, (1, 1, width))
        if self.has_mask_token:
            self.mask_token = self.param("mask_token", token, (1, 1, width))
        if self.absolute_positions:
            slots = self.patches + self.has_class_token
            init = nn.initializers.normal(self.position_std)
            self.position = self.param("position", init, (1, slots, width))

    def tokens(self, x, patch_mask=None, rows=None):
        """Tokens f[B S D] of patch embeddings x f[B N D]; S = N, or 1 + N with a class token.

        Where `patch_mask` bool[B N] is True the mask token is shown instead of the patch; `rows`
        has the keys of dropout (None = nothing is dropped).
        """
        if patch_mask is not None:
            x = jnp.where(patch_mask[..., None], self.mask_token.astype(x.dtype), x)
        if self.has_class_token:
            first = jnp.broadcast_to(self.class_token.astype(x.dtype), (len(x), 1, x.shape[-1]))
            x = jnp.concatenate([first, x], axis=1)
        if self.absolute_positions:
            # After the mask token, which would otherwise not say where it stands.
            x = x + self.position.astype(x.dtype)
        return dropout(rows, x, self.config.dropout)
