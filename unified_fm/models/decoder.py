"""A causal text decoder: every layer looks at the text so far, and then at an image or a question.

    decoder = net.attach("caption_decoder", net.text_decoder())
    states = decoder(ids, ImageMemory(image=views.image))       all tokens of known texts at once
    loss, right = decoder.mlm_head.cross_entropy(states[:, :-1], ids[:, 1:])
    found = write(decoder, ImageMemory(image=views.image), prompt, how, end=2)       token by token

Its parameters are called as everywhere, so it can start from other parts of a checkpoint:

    NAME/text_embed/...    as `text_embed`; its words are those of the head, too (tied)
    NAME/layer_00/...      as `fusion/layer_00`; `text/layer_00` has all but cross_attn, cross_norm
    NAME/mlm_head/...      as `mlm_head`, and as `fusion_mlm_head` without its `embedding`

From the language encoder, cross-attention from the fusion encoder (the later pair counts):

    init.copy = [
        ("fusion/(.*)", r"caption_decoder/\1"),
        ("text/(.*)", r"caption_decoder/\1"),
        ("(text_embed/.*|mlm_head/.*)", r"caption_decoder/\1"),
    ]
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm import placement
from unified_fm.models import beam, stack
from unified_fm.models.config import EncoderConfig
from unified_fm.models.embeddings import TextEmbed
from unified_fm.models.heads import MlmHead
from unified_fm.models.layers import layer_norm
from unified_fm.models.memory import ImageMemory, look_together
from unified_fm.models.rows import EMBEDDING, Rows

Cache = tuple[tuple[jax.Array, jax.Array], ...]  # of each layer (keys, values) f[B K L H Dh]


class TextDecoder(nn.Module):
    """Own embeddings, layers with cross-attention, and a head that is tied to the embeddings.

    Attributes:
        config: of the layers.
        vocabulary, positions, segments, pad_id, position_offset, word_std, position_std: of
            `TextEmbed`.
    """

    config: EncoderConfig
    vocabulary: int
    positions: int
    segments: int = 1
    pad_id: int = 1
    position_offset: str = "roberta"
    word_std: float = 0.02
    position_std: float = 0.02

    grid: ClassVar[int] = 0  # as of every stack: there are no patches
    cross_attention: ClassVar[bool] = True

    def setup(self):
        self.text_embed = TextEmbed(
            self.config,
            vocabulary=self.vocabulary,
            positions=self.positions,
            segments=self.segments,
            pad_id=self.pad_id,
            position_offset=self.position_offset,
            word_std=self.word_std,
            position_std=self.position_std,
        )
        stack.make(self, self.config, self.grid, self.cross_attention)
        if self.config.norm == "pre":
            self.norm = layer_norm(self.config)
        self.mlm_head = MlmHead(self.config, self.vocabulary, tied=self.text_embed)

    def __call__(
        self,
        ids: jax.Array,
        memory: ImageMemory,
        rows: jax.Array | None = None,
        *,
        drop: bool = True,
    ) -> jax.Array:
        """States f[... L D] of whole texts, each token of which sees those before it.

        What follows the end of a text is seen by nothing before it, so padding needs no mask.

        Args:
            ids: i32[B' L]; or i32[B K L], K texts that look at each row of the memory and share its
                keys and values.
            memory: what they look at.
            rows: i32[B'], which row of the memory, by its place in its group; None = text b at b.
            drop: whether the dropout of a step applies.
        """
        texts = ids[:, None] if ids.ndim == 2 else ids
        each = range(texts.shape[1])
        keys = None
        if drop and self.has_rng("dropout"):
            key = self.make_rng("dropout")
            keys = tuple(jax.random.fold_in(key, number) for number in each)
        shards = placement.current().shards
        joined = Rows((len(ids),) * len(each), shards, keys=keys)
        x = joined.join(texts[:, number] for number in each)
        x = self.text_embed(x, None, joined.fold(EMBEDDING))
        looks = look_together([(memory, rows, "image")] * len(each), shards)
        length = ids.shape[-1]
        before = jnp.tril(jnp.ones((length, length), bool))[None, None]
        x = self._normed(stack.run(self, x, rows=joined, mask=before, looks=looks))
        found = joined.cut(x)
        return found[0] if ids.ndim == 2 else jnp.stack(found, axis=1)

    def remember(self, memory: ImageMemory) -> ImageMemory:
        """The memory with its keys and values projected, for texts that are written."""
        states: Any = memory.image
        layers = stack.project_memory(self, states)
        return dataclasses.replace(memory, image=None, layers=layers)

    def empty(self, rows: int, texts: int, length: int) -> Cache:
        """What is known of `rows` x `texts` texts of up to `length` tokens before their first.

        Raises:
            ValueError: that is more than there are position embeddings.
        """
        offset = self.pad_id + 1 if self.position_offset == "roberta" else 0
        if length + offset > self.positions:
            raise ValueError(
                f"texts of {length} tokens need {length + offset} position embeddings "
                f"({self.position_offset!r} numbering), but the decoder has {self.positions}: "
                "lower max_new_tokens, or raise model.max_positions"
            )
        c = self.config
        zeros = jnp.zeros((rows, texts, length, c.heads, c.head_width), c.compute_dtype)
        return ((zeros, zeros),) * c.layers

    def extend(
        self, ids: jax.Array, cache: Cache, place: jax.Array | int, memory: ImageMemory
    ) -> tuple[jax.Array, Cache]:
        """(States f[B K T D], cache) of later tokens of K texts a row; nothing is dropped.

        Args:
            ids: i32[B K T].
            cache: of the tokens before.
            place: i32[], how many these are.
            memory: as `remember` gives it.
        """
        x = self.text_embed.later(ids.reshape(-1, ids.shape[-1]), place)
        x = x.reshape(*ids.shape, -1)
        looks = look_together([(memory, None, "image")], shards=1)
        kept = []
        for number, own in enumerate(cache):
            layer = getattr(self, f"layer_{number:02d}")
            x, own = layer.extend(x, own, place, looks.at(number))
            kept.append(own)
        return self._normed(x), tuple(kept)

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits f32[... V] of states f[... D]."""
        return self.mlm_head(x)

    def losses(self, x: jax.Array, ids: jax.Array, never: Sequence[int] = ()) -> jax.Array:
        """-log p f32[...] of words ids i32[...] after states f[... D], among all but `never`."""
        return self.mlm_head.cross_entropy(x, ids, never=tuple(never))[0]

    def log_probabilities(self, x: jax.Array, rows: jax.Array, ids: jax.Array) -> jax.Array:
        """See `MlmHead.log_probabilities`."""
        return self.mlm_head.log_probabilities(x, rows, ids)

    def _normed(self, x: jax.Array) -> jax.Array:
        return self.norm(x) if self.config.norm == "pre" else x


def write(
    decoder: TextDecoder,
    memory: ImageMemory,
    prompt: jax.Array,
    how: beam.Writing,
    *,
    end: int,
    never: Sequence[int] = (),
    key: jax.Array | None = None,
) -> beam.Written:
    """Texts about each row of a memory; a pure function of the bound decoder and the arrays.

    Args:
        decoder: bound to its parameters.
        memory: of B rows, not yet projected.
        prompt: i32[B P], what every text begins with, real tokens only; at least the first one.
        how: it is searched, or drawn.
        end: id of the token that ends a text.
        never: ids that are not written (padding, mask, the first token).
        key: of the draws, where it draws.
    """
    module, variables = decoder.unbind()  # inside a loop of JAX no bound module may be called

    def call(method: str, *arguments: Any) -> Any:
        return module.apply(variables, *arguments, method=method)

    rows, known = prompt.shape
    memory = call("remember", memory)
    cache = call("empty", rows, 1, known + how.max_new_tokens)
    if known > 1:
        _, cache = call("extend", prompt[:, None, :-1], cache, 0, memory)

    def step(tokens: jax.Array, cache: Cache, count: jax.Array) -> tuple[jax.Array, Cache]:
        x, cache = call("extend", tokens[..., None], cache, known - 1 + count, memory)
        return call("logits", x[:, :, 0]), cache

    return beam.write(step, cache, prompt, how, end=end, never=never, key=key)
