"""Matching scores of many image-caption pairs, without repeating what pairs have in common."""

from collections.abc import Callable
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.evaluators._batches import Apply, in_batches, padded

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
) -> np.ndarray:
    """The logit of "match" for chosen pairs of images and captions.

    Images are visited in chunks: their keys and values of every fusion layer are projected once and
    stay on the device while all captions wanted for that chunk are scored against them. Captions
    are encoded once and fused in groups of similar length, so short ones pay for no padding.

    Args:
        image: u8[I H W 3]; text: i32[T L]; text_mask: bool[T L].
        pairs: i[P 2], (image, caption) rows.
        image_batch: images per chunk; pair_batch: pairs per fusion pass.
        progress: called with (pairs done, all pairs) after every chunk.

    Returns:
        f32[P] in the order of `pairs`.
    """
    result = np.empty(len(pairs), np.float32)
    groups = _length_groups(apply, params, text, text_mask, image_batch)
    group_of = np.empty(len(text), int)
    row_in_group = np.empty(len(text), int)
    for number, (members, _) in enumerate(groups):
        group_of[members] = number
        row_in_group[members] = np.arange(len(members))

    done = 0
    for start in range(0, len(image), image_batch):
        inside = np.flatnonzero(pairs[:, 0] // image_batch == start // image_batch)
        if not len(inside):
            continue
        chunk = padded({"image": image[start : start + image_batch]}, image_batch)
        memory = apply(queries.image_memory, params, chunk)
        scored = []
        for number, (_, encoded) in enumerate(groups):
            chosen = inside[group_of[pairs[inside, 1]] == number]
            for at in range(0, len(chosen), pair_batch):
                some = chosen[at : at + pair_batch]
                rows = {
                    "rows": (pairs[some, 0] - start).astype(np.int32),
                    "which": row_in_group[pairs[some, 1]].astype(np.int32),
                }
                batch = {**padded(rows, pair_batch), **encoded, "memory": memory}
                scored.append((some, apply(_match_logit, params, batch)))
        for some, logits in scored:  # fetched late, so that the device never waits for us
            result[some] = np.asarray(logits)[: len(some)]
        done += len(inside)
        if progress is not None:
            progress(done, len(pairs))
    return result


def _length_groups(apply, params, text, text_mask, size):
    """[(caption rows, {states f[G Lg D], text_mask bool[G Lg]})], one per rounded length."""
    lengths = text_mask.sum(axis=1)
    rounded = np.minimum(-(-lengths // _LENGTH_STEP) * _LENGTH_STEP, text.shape[1])
    groups = []
    for length in np.unique(rounded):
        members = np.flatnonzero(rounded == length)
        rows = {"text": text[members, :length], "text_mask": text_mask[members, :length]}
        states = in_batches(apply, queries.text_states, params, rows, size, on_device=True)
        groups.append((members, {"states": states, "text_mask": rows["text_mask"]}))
    return groups


def _match_logit(net, batch):
    text, mask = (batch[name][batch["which"]] for name in ("states", "text_mask"))
    fused = queries.fuse(net, text, mask, batch["memory"], batch["rows"])
    return queries.match_logits(net, fused)[:, 1]
