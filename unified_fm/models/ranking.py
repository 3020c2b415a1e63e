"""How probable each of many given texts is: sum log p of its tokens, the end included.

Thousands of short answers begin alike, so they are kept as a tree of tokens and each token of it
is looked at once (`all_scores`); or only those are looked at whose first token is among the most
probable (`best_scores`, as X-FM's published program does with 128). Both are exact.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm.models.decoder import TextDecoder
from unified_fm.models.memory import ImageMemory

_CHUNK = 256  # texts of one tree: what is known of all its tokens is in memory at once
_NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """Texts as tokens: NumPy arrays, which are constants of a compiled program.

    Attributes:
        ids: i32[A L], behind the first token of every text, with the end, then the end again.
        lengths: i32[A], tokens, the end counted.
        parents: i32[C D N], trees of C chunks of the texts: for token n of depth d its parent at
            depth d - 1; depth 0 is what every text begins with.
        tokens: i32[C D N], the tokens themselves.
        depth, node: i32[A], the token before the end of each text, in the tree of its chunk.
        chunk: i32[A], which that is.
    """

    ids: np.ndarray
    lengths: np.ndarray
    parents: np.ndarray
    tokens: np.ndarray
    depth: np.ndarray
    node: np.ndarray
    chunk: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def places(self) -> int:
        """Tokens that `all_scores` looks at, those counted that fill up the trees."""
        return self.tokens.size


def candidates(texts: Sequence[Sequence[int]], end: int, *, chunk: int = _CHUNK) -> Candidates:
    """Makes them of token ids, without the first token and without the end.

    Args:
        texts: ids of each.
        end: id of the token that ends a text.
        chunk: texts of one tree.

    Raises:
        ValueError: no text at all.
    """
    if not texts:
        raise ValueError("there is no text to rank; at least one is needed")
    lengths = np.array([len(text) + 1 for text in texts], np.int32)
    ids = np.full((len(texts), lengths.max()), end, np.int32)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    order = sorted(range(len(texts)), key=lambda number: list(texts[number]))  # by beginnings
    where = {name: np.zeros(len(texts), np.int32) for name in ("chunk", "depth", "node")}
    trees = []
    for start in range(0, len(order), chunk):
        levels: list[dict[tuple[int, ...], int]] = [{(): 0}]
        for number in order[start : start + chunk]:
            text = tuple(int(i) for i in texts[number])
            while len(levels) <= len(text):
                levels.append({})
            for depth in range(1, len(text) + 1):
                levels[depth].setdefault(text[:depth], len(levels[depth]))
            where["chunk"][number] = len(trees)
            where["depth"][number] = len(text)
            where["node"][number] = levels[len(text)][text]
        trees.append(levels)
    depths = max(len(levels) for levels in trees)
    widest = max(len(level) for levels in trees for level in levels)
    parents = np.zeros((len(trees), depths, widest), np.int32)
    tokens = np.full_like(parents, end)  # what fills up is looked at and not used
    for number, levels in enumerate(trees):
        for depth, level in enumerate(levels[1:], start=1):
            for text, node in level.items():
                parents[number, depth, node] = levels[depth - 1][text[:-1]]
                tokens[number, depth, node] = text[-1]
    return Candidates(ids, lengths, parents, tokens, **where)


def all_scores(
    decoder: TextDecoder, memory: ImageMemory, first: int, texts: Candidates, *, end: int
) -> jax.Array:
    """Scores f32[B A] of all texts about each row of a memory.

    Args:
        decoder: bound to its parameters.
        memory: of B rows, not yet projected.
        first: id of the token before every text.
        texts: to be scored.
        end: id of the token that ends them.
    """
    call = _calls(decoder)
    memory, rows = call("remember", memory), _rows_of(memory)
    depths, nodes = texts.tokens.shape[1:]
    every, ends = jnp.arange(nodes), jnp.full(nodes, end)

    def tree(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        """f32[D B N]: what a text has whose last token before the end is this one."""
        parents, tokens = given
        cache = call("empty", rows, 1, depths)
        x, cache = call("extend", jnp.full((rows, 1, 1), first), cache, 0, memory)
        # At depth 0 there is one token, which fills its level.
        x = jnp.broadcast_to(x[:, :, 0], (rows, nodes, x.shape[-1]))
        cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, nodes, axis=1), cache)
        start = x, cache, jnp.zeros((rows, nodes), jnp.float32)
        levels = jnp.arange(1, depths), parents[1:], tokens[1:]
        (x, _, sums), found = jax.lax.scan(deeper, start, levels)
        last = sums + call("log_probabilities", x, every, ends)
        return jnp.concatenate([found, last[None]])  # f32[D B N]

    def deeper(carry: Any, level: Any) -> Any:
        """From the tokens of one depth to those of the next; and what ends behind the former."""
        (x, cache, sums), (depth, own, words) = carry, level
        after = jnp.concatenate([every, own]), jnp.concatenate([ends, words])
        ended, on = jnp.split(call("log_probabilities", x, *after), 2, axis=1)
        cache = jax.tree.map(lambda leaf: leaf[:, own], cache)
        ids = jnp.broadcast_to(words[None, :, None], (rows, nodes, 1))
        new, cache = call("extend", ids, cache, depth, memory)
        return (new[:, :, 0], cache, sums[:, own] + on), sums + ended

    found = jax.lax.map(tree, (jnp.asarray(texts.parents), jnp.asarray(texts.tokens)))
    return found[texts.chunk, texts.depth, :, texts.node].T  # f32[C D B N] -> f32[B A]


def best_scores(
    decoder: TextDecoder,
    memory: ImageMemory,
    first: int,
    texts: Candidates,
    *,
    count: int,
) -> jax.Array:
    """Scores f32[B A] of the texts with the most probable first tokens, and -inf of the others.

    Texts with the same first token go together: with the one that is number `count` come all that
    begin as it does.

    Args:
        decoder, memory, first, texts: as for `all_scores`.
        count: texts that are scored, at least, if there are so many.
    """
    call = _calls(decoder)
    memory, rows = call("remember", memory), _rows_of(memory)
    words, kind, sizes = np.unique(texts.ids[:, 0], return_inverse=True, return_counts=True)
    likely = _first(call, memory, rows, first, words)  # f32[B F]
    order = jnp.argsort(-likely, axis=1, stable=True)
    before = jnp.cumsum(jnp.asarray(sizes)[order], axis=1) - jnp.asarray(sizes)[order]
    rank = jnp.argsort(order, axis=1)  # i32[B F], of each first token
    before = jnp.take_along_axis(before, rank, axis=1)[:, kind]  # i32[B A], texts ahead of it
    width = min(len(texts), count + int(sizes.max()) - 1)
    chosen = jnp.argsort(rank[:, kind], axis=1, stable=True)[:, :width]  # i32[B W]

    own = jnp.asarray(texts.ids)[chosen]  # i32[B W L]
    told = jnp.concatenate([jnp.full((*own.shape[:2], 1), first), own[..., :-1]], axis=-1)
    cache = call("empty", rows, width, own.shape[-1])
    x, _ = call("extend", told, cache, 0, memory)
    loss = call("losses", x, own)  # f32[B W L]
    counted = jnp.arange(own.shape[-1]) < jnp.asarray(texts.lengths)[chosen][..., None]
    scores = -jnp.where(counted, loss, 0.0).sum(-1)
    scores = jnp.where(jnp.take_along_axis(before, chosen, axis=1) < count, scores, _NEVER)
    blank = jnp.full((rows, len(texts)), _NEVER)
    return jax.vmap(lambda row, places, found: row.at[places].set(found))(blank, chosen, scores)


def first_scores(
    decoder: TextDecoder, memory: ImageMemory, first: int, texts: Candidates
) -> jax.Array:
    """log p f32[B A] of the first token alone of each text."""
    call = _calls(decoder)
    memory, rows = call("remember", memory), _rows_of(memory)
    words, kind = np.unique(texts.ids[:, 0], return_inverse=True)
    return _first(call, memory, rows, first, words)[:, kind]


def _first(call: Any, memory: ImageMemory, rows: int, first: int, words: np.ndarray) -> jax.Array:
    """log p f32[B F] of words i32[F] behind the first token."""
    start = jnp.full((rows, 1, 1), first)
    x, _ = call("extend", start, call("empty", rows, 1, 1), 0, memory)
    return call("log_probabilities", x[:, :, 0], np.zeros(len(words), np.int32), words)


def _calls(decoder: TextDecoder) -> Any:
    """`call(method, ...)` of the decoder as a pure function: no bound module runs in a loop."""
    module, variables = decoder.unbind()
    return lambda method, *given: module.apply(variables, *given, method=method)


def _rows_of(memory: ImageMemory) -> int:
    assert memory.image is not None
    return len(memory.image)
