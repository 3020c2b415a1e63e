"""Writing texts token by token: greedily, by beam search, or drawn; each one compiled loop.

Nothing here knows a decoder. `step(tokens i32[B K], cache, count) -> (logits f32[B K V], cache)`
says what may follow after `count` new tokens; the leaves of a cache have the axes [B K ...], so
that texts can be re-ordered. What is written of a row depends on no other row of the batch.

A text has the score sum log p, its end included, over a power of its length in new tokens, the end
counted: length^a, or ((5 + length) / 6)^a as in GNMT.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from unified_fm import choices

PENALTIES = ("length", "gnmt")
Step = Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, Any]]
_NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writing:
    """How texts are written.

    Attributes:
        beams: texts that are followed at once; 1 takes the best token each time and stops at the
            first end, which with a penalty a search with one beam would not.
        samples: texts that are drawn for each row, instead; 0 searches.
        temperature: of the draws.
        max_new_tokens: behind the prompt, with the end. The published `max_length` counts the
            prompt: its 20 are 16 here.
        min_new_tokens: before the end may come, not counting it. The published `min_length` of 5
            is 1 here.
        no_repeat: no n-gram of this many tokens comes twice, those of the prompt counted; 0 = any
            may.
        length_penalty: a; above 0 longer texts are favoured.
        penalty: "length" or "gnmt".
    """

    beams: int = 1
    samples: int = 0
    temperature: float = 1.0
    max_new_tokens: int = 16
    min_new_tokens: int = 1
    no_repeat: int = 0
    length_penalty: float = 1.0
    penalty: str = "length"

    def __post_init__(self) -> None:
        choices.check("penalty", self.penalty, PENALTIES)
        for name, least in (("beams", 1), ("samples", 0), ("max_new_tokens", 1), ("no_repeat", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.min_new_tokens < self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}; possible: 0 to max_new_tokens - 1, "
                f"{self.max_new_tokens - 1}, for the end is one of them"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.samples and self.beams > 1:
            raise ValueError(f"samples={self.samples} are drawn, so beams={self.beams} must be 1")

    def lengthened(self, length: jax.Array | int) -> jax.Array:
        """What the sum of the log-probabilities of so many tokens is divided by."""
        length = jnp.asarray(length, jnp.float32)
        if self.penalty == "gnmt":
            return ((5 + length) / 6) ** self.length_penalty
        return length**self.length_penalty


class Written(NamedTuple):
    """Texts of each row, the best first (drawn ones in the order of their draws).

    Attributes:
        ids: i32[B K L], new tokens alone, with the end; what follows it is the end again.
        scores: f32[B K]; see the module. -inf: there were not so many texts.
    """

    ids: jax.Array
    scores: jax.Array


def write(
    step: Step,
    cache: Any,
    prompt: jax.Array,
    how: Writing,
    *,
    end: int,
    never: Sequence[int] = (),
    key: jax.Array | None = None,
) -> Written:
    """Writes texts.

    Args:
        step: see the module. Its first tokens are the last ones of the prompt.
        cache: [B 1 ...], after all of the prompt but its last token.
        prompt: i32[B P].
        how: options.
        end: id of the token that ends a text.
        never: ids that are not written.
        key: of the draws.

    Raises:
        ValueError: texts are to be drawn and there is no key.
    """
    if how.samples and key is None:
        raise ValueError(f"samples={how.samples} are drawn: a key is needed")
    texts = how.samples or how.beams
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, texts, axis=1), cache)
    known = jnp.repeat(prompt[:, None], texts, axis=1)
    room = jnp.full((*known.shape[:2], how.max_new_tokens), end, jnp.int32)
    ids = jnp.concatenate([known.astype(jnp.int32), room], axis=-1)  # i32[B K P+L]
    allowed = _Allowed(how, prompt.shape[1], end, tuple(never))
    if how.beams > 1:
        return _search(step, cache, ids, how, allowed)
    return _walk(step, cache, ids, how, allowed, key if how.samples else None)


@dataclasses.dataclass(frozen=True)
class _Allowed:
    """Log-probabilities f32[B K V], -inf where a token may not be written."""

    how: Writing
    known: int  # tokens of the prompt
    end: int
    never: tuple[int, ...]

    def __call__(self, logits: jax.Array, ids: jax.Array, count: jax.Array) -> jax.Array:
        found = jax.nn.log_softmax(logits.astype(jnp.float32))
        if self.never:
            found = found.at[..., jnp.array(self.never)].set(_NEVER)
        early = count < self.how.min_new_tokens
        found = found.at[..., self.end].set(jnp.where(early, _NEVER, found[..., self.end]))
        if self.how.no_repeat:
            found = jnp.where(self._repeats(ids, count, found.shape[-1]), _NEVER, found)
        return found

    def _repeats(self, ids: jax.Array, count: jax.Array, words: int) -> jax.Array:
        """bool[B K V], the tokens that would end an n-gram that is there already."""
        n, length = self.how.no_repeat, self.known + count
        starts = ids.shape[-1] - n + 1
        last = jax.lax.dynamic_slice_in_dim(ids, jnp.maximum(length - n + 1, 0), n - 1, axis=-1)
        same = jnp.ones((*ids.shape[:2], starts), bool)
        for place in range(n - 1):
            same &= ids[..., place : place + starts] == last[..., place, None]
        # The n-gram that begins at s ends at s + n - 1, which must have been written; and there
        # must be n - 1 tokens that one more could make an n-gram of.
        same &= (jnp.arange(starts) + n - 1 < length) & (length >= n - 1)
        found = jnp.zeros((*ids.shape[:2], words), bool)
        rows, texts = jnp.ogrid[: ids.shape[0], : ids.shape[1]]
        return found.at[rows[..., None], texts[..., None], ids[..., n - 1 :]].max(same)


@flax.struct.dataclass
class _Walk:
    count: jax.Array  # i32[], new tokens
    ids: jax.Array  # i32[B K P+L]
    sums: jax.Array  # f32[B K]
    lengths: jax.Array  # i32[B K]
    ended: jax.Array  # bool[B K]
    cache: Any


def _walk(
    step: Step, cache: Any, ids: jax.Array, how: Writing, allowed: _Allowed, key: jax.Array | None
) -> Written:
    """Follows each text by itself: the best token each time, or a draw."""
    texts = ids.shape[:2]
    zeros = jnp.zeros(texts, jnp.float32)
    start = _Walk(
        jnp.int32(0), ids, zeros, jnp.zeros(texts, jnp.int32), jnp.zeros(texts, bool), cache
    )

    def goes_on(s: _Walk) -> jax.Array:
        return (s.count < how.max_new_tokens) & ~s.ended.all()

    def body(s: _Walk) -> _Walk:
        place = allowed.known + s.count
        logits, cache = step(_at(s.ids, place - 1), s.cache, s.count)
        found = allowed(logits, s.ids, s.count)
        if key is None:
            tokens = found.argmax(-1)
        else:
            # Drawn from what is allowed alone: its shares are over their own sum.
            drawn = jax.random.fold_in(key, s.count)
            found = jax.nn.log_softmax(found)
            tokens = jax.random.categorical(drawn, found / how.temperature)
        tokens = jnp.where(s.ended, allowed.end, tokens).astype(jnp.int32)
        gained = jnp.take_along_axis(found, tokens[..., None], -1)[..., 0]
        return _Walk(
            s.count + 1,
            _put(s.ids, tokens, place),
            s.sums + jnp.where(s.ended, 0.0, gained),
            s.lengths + ~s.ended,
            s.ended | (tokens == allowed.end),
            cache,
        )

    last = jax.lax.while_loop(goes_on, body, start)
    return Written(last.ids[..., allowed.known :], last.sums / how.lengthened(last.lengths))


@flax.struct.dataclass
class _Search:
    count: jax.Array  # i32[]
    ids: jax.Array  # i32[B K P+L], of texts that go on
    sums: jax.Array  # f32[B K], theirs
    done: jax.Array  # i32[B K P+L], of texts that have ended, the best first
    scores: jax.Array  # f32[B K], theirs
    cache: Any


def _search(step: Step, cache: Any, ids: jax.Array, how: Writing, allowed: _Allowed) -> Written:
    rows, beams, _ = ids.shape
    # All beams begin alike, so but one of them counts.
    sums = jnp.full((rows, beams), _NEVER).at[:, 0].set(0.0)
    nothing = jnp.full((rows, beams), _NEVER)
    start = _Search(jnp.int32(0), ids, sums, ids, nothing, cache)

    def goes_on(s: _Search) -> jax.Array:
        """Whether some text that goes on may still become better than the worst that has ended."""
        length = how.max_new_tokens if how.length_penalty > 0 else s.count + 1
        best = s.sums.max(-1) / how.lengthened(length)
        return (s.count < how.max_new_tokens) & (best > s.scores.min(-1)).any()

    def body(s: _Search) -> _Search:
        place = allowed.known + s.count
        logits, cache = step(_at(s.ids, place - 1), s.cache, s.count)
        found = s.sums[..., None] + allowed(logits, s.ids, s.count)
        words = found.shape[-1]
        # Twice as many as there are beams: if all of those end, as many go on.
        found, at = jax.lax.top_k(found.reshape(rows, -1), min(2 * beams, beams * words))
        parents, tokens = at // words, (at % words).astype(jnp.int32)
        ids = _put(_take(s.ids, parents), tokens, place)  # i32[B 2K P+L]
        ends = tokens == allowed.end

        scores = jnp.where(ends, found / how.lengthened(s.count + 1), _NEVER)
        both = jnp.concatenate([s.scores, scores], 1), jnp.concatenate([s.done, ids], 1)
        scores, best = jax.lax.top_k(both[0], beams)

        sums, on = jax.lax.top_k(jnp.where(ends, _NEVER, found), beams)
        parents = jnp.take_along_axis(parents, on, 1)
        cache = jax.tree.map(lambda leaf: _take(leaf, parents), cache)
        return _Search(s.count + 1, _take(ids, on), sums, _take(both[1], best), scores, cache)

    last = jax.lax.while_loop(goes_on, body, start)
    # Where none has ended, the texts that were cut are all there is.
    ended = last.scores[:, :1] > _NEVER
    cut = last.sums / how.lengthened(how.max_new_tokens)
    found = jnp.where(ended[..., None], last.done, last.ids)
    return Written(found[..., allowed.known :], jnp.where(ended, last.scores, cut))


def _at(ids: jax.Array, place: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(ids, place, axis=-1, keepdims=False)


def _put(ids: jax.Array, tokens: jax.Array, place: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(ids, tokens, place, axis=-1)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    """Rows [B n ...] of x [B K ...] by index i32[B n]."""
    return jax.vmap(lambda rows, places: rows[places])(x, index)
