"""Matching scores of many image-caption pairs, without repeating what pairs have in common."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unified_fm import queries
from unified_fm.evaluators._batches import Apply, in_batches, padded
from unified_fm.evaluators._chunks import Chunks

_AHEAD = 8  # batches that wait for the device: it never waits for us, nor holds all of a chunk
_LENGTH_STEP = 8  # captions are grouped by length rounded up to this many tokens


def score(
    apply: Apply,
    params: Any,
    *,
    image: np.ndarray,
    text: np.ndarray,
    text_mask: np.ndarray,
    pairs: np.ndarray,
    image_batch: int,
    pair_batch: int,
    progress: Callable[[int, int], None] | None = None,
    chunks: Chunks | None = None,
    first: int = 0,
) -> np.ndarray:
    """The logit of "match" for chosen pairs of images and captions.

    Images are visited in chunks: their keys and values of every fusion layer are projected once and
    stay on the device while all captions wanted for that chunk are scored against them. Captions
    are encoded once, stay on the host, and are fused in groups of similar length: short ones pay
    for no padding, and there is one program for each length.

    Args:
        image: u8[I H W 3]; text: i32[T L]; text_mask: bool[T L].
        pairs: i[P 2], (image, caption) rows.
        image_batch: images per chunk; pair_batch: pairs per fusion pass.
        progress: called with (pairs done, all pairs) after every chunk.
        chunks: where finished chunks are kept, and looked for before they are computed.
        first: the number of the first image among those of all processes.

    Returns:
        f32[P] in the order of `pairs`.
    """
    result = np.empty(len(pairs), np.float32)
    texts = _Texts(apply, params, text, text_mask, image_batch)
    done = 0
    for start in range(0, len(image), image_batch):
        inside = np.flatnonzero(pairs[:, 0] // image_batch == start // image_batch)
        if not len(inside):
            continue
        wanted = pairs[inside] + np.array([first, 0])
        kept = None if chunks is None else chunks.logits(first + start, wanted)
        if kept is None:
            chunk = padded({"image": image[start : start + image_batch]}, image_batch)
            memory = apply(queries.image_memory, params, chunk)
            kept = texts.score(memory, pairs[inside] - np.array([start, 0]), pair_batch)
            if chunks is not None:
                chunks.keep(first + start, wanted, kept)
        result[inside] = kept
        done += len(inside)
        if progress is not None:
            progress(done, len(pairs))
    return result


class _Group(NamedTuple):
    """Captions of one rounded length: their rows, and states f[G Lg D] on the host."""

    members: np.ndarray
    states: np.ndarray
    text_mask: np.ndarray


class _Texts:
    """The captions, encoded when they are first asked for: of a re-ranking that is all kept, never.

    Attributes:
        groups: of captions of one rounded length.
    """

    def __init__(self, apply: Apply, params: Any, text: Any, text_mask: Any, size: int):
        self._apply, self._params, self._size = apply, params, size
        self._text, self._mask = text, text_mask

    @functools.cached_property
    def groups(self) -> list[_Group]:
        lengths = self._mask.sum(axis=1)
        rounded = np.minimum(-(-lengths // _LENGTH_STEP) * _LENGTH_STEP, self._text.shape[1])
        found = []
        for length in np.unique(rounded):
            members = np.flatnonzero(rounded == length)
            rows = {"text": self._text[members, :length], "text_mask": self._mask[members, :length]}
            states = in_batches(self._apply, queries.text_states, self._params, rows, self._size)
            found.append(_Group(members, states, rows["text_mask"]))
        return found

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of each caption's group, and its row there."""
        group, row = np.empty(len(self._text), int), np.empty(len(self._text), int)
        for number, each in enumerate(self.groups):
            group[each.members] = number
            row[each.members] = np.arange(len(each.members))
        return group, row

    def score(self, memory: Any, pairs: np.ndarray, pair_batch: int) -> np.ndarray:
        """Logits f32[P] of pairs i[P 2] of images of a memory and captions."""
        group_of, row_of = self._places
        result = np.empty(len(pairs), np.float32)
        running: collections.deque[tuple[np.ndarray, Any]] = collections.deque()
        for number, group in enumerate(self.groups):
            chosen = np.flatnonzero(group_of[pairs[:, 1]] == number)
            for at in range(0, len(chosen), pair_batch):
                some = chosen[at : at + pair_batch]
                which = row_of[pairs[some, 1]]
                rows = {
                    "rows": pairs[some, 0].astype(np.int32),
                    "states": group.states[which],
                    "text_mask": group.text_mask[which],
                }
                batch = {**padded(rows, pair_batch), "memory": memory}
                running.append((some, self._apply(_match_logit, self._params, batch)))
                if len(running) > _AHEAD:
                    _fetch(result, *running.popleft())
        for some, logits in running:
            _fetch(result, some, logits)
        return result


def _fetch(result: np.ndarray, some: np.ndarray, logits: Any) -> None:
    result[some] = np.asarray(logits)[: len(some)]


def _match_logit(net, batch):
    fused = queries.fuse(net, batch["states"], batch["text_mask"], batch["memory"], batch["rows"])
    return queries.match_logits(net, fused)[:, 1]
