"""Texts with words left out: `[MASK]` or `<mask>`, whichever the tokenizer writes itself."""

import re

import numpy as np

from unified_fm.data import captions
from unified_fm.data.pipelines.base import TextOptions
from unified_fm.data.skips import Skip

_MASK = re.compile(r"\[MASK\]|<mask>", re.IGNORECASE)


def tokens(text: object, pipeline: TextOptions) -> list[dict[str, np.ndarray]]:
    """A row for each mask of a text: `text_masked i32[L]`, `text_mask bool[L]`,
    `masked_positions i32[1]`.

    What stands between the masks is cleaned as in training.

    Raises:
        Skip: it has no mask, or one that lies behind what the model reads.
    """
    if not isinstance(text, str):
        raise Skip("no text", f"{type(text).__name__}; a str is needed")
    parts = _MASK.split(text)
    if len(parts) == 1:
        raise Skip("no mask", "write [MASK] or <mask> in place of a word")
    tokenizer, words = pipeline.tokenizer, 0
    pieces: list[int] = []
    for number, part in enumerate(parts):
        if number:
            pieces.append(tokenizer.mask_id)
            words += 1
        clean = captions.clean(part, pipeline.clean, max(pipeline.max_words - words, 1)).strip()
        if clean:
            words += len(clean.split())
            # A byte-level vocabulary has other pieces for a word behind a space.
            space = " " if number and part[:1].isspace() else ""
            pieces += _pieces(tokenizer, space + clean, pipeline.max_len)
    room = pipeline.max_len - 2
    at = np.flatnonzero(np.array(pieces) == tokenizer.mask_id)
    if at[-1] >= room:
        raise Skip("text too long", f"a mask is token {at[-1] + 1}, and the model reads {room}")
    ids = np.full(pipeline.max_len, tokenizer.pad_id, np.int32)
    line = [tokenizer.cls_id, *pieces[:room], tokenizer.sep_id]
    ids[: len(line)] = line
    mask = np.arange(pipeline.max_len) < len(line)
    return [
        {"text_masked": ids, "text_mask": mask, "masked_positions": np.array([1 + n], np.int32)}
        for n in at
    ]


def _pieces(tokenizer, text: str, room: int) -> list[int]:
    encoded = tokenizer.encode(text, room + 2)
    return [int(piece) for piece in encoded.ids[encoded.inside]]


def best(shares: np.ndarray, k: int, tokenizer) -> list[tuple[str, float]]:
    """The k most probable words of shares f32[V], with their probabilities; all, if k is more."""
    words = np.flatnonzero(~tokenizer.is_special)
    chosen = words[np.argsort(-shares[words], kind="stable")[:k]]
    return [(tokenizer.decode([n]).strip() or tokenizer.token(n), float(shares[n])) for n in chosen]
