"""Which tokens and which patches are hidden. NumPy only, one Generator per example."""

import dataclasses
import functools
import math

import numpy as np

from unified_fm import choices
from unified_fm.data.tokenizer import Encoded, Tokenizer

_LOG_LEAST_ASPECT = math.log(0.3)  # of a block of patches
IGNORED = -100  # the label of an unused slot; only this value marks it


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenMasker:
    """Masked language modelling: n = min(max_masked, max(1, round(rate * length))) tokens.

    Of the chosen tokens 80% become the mask token, 10% a random token, 10% stay.

    Attributes:
        rate: share of the real tokens (cls and sep counted, as published).
        max_masked: slots K of the output; X-FM has 20 for text, 15 for captions.
        units: "words" hides whole words (n may be missed by less than one word); "spans" is the
            published behaviour, token-level with spans of 2 or 3 tokens at p = 0.2 (X-FM 2.2).
        special_tokens: "never" hides sep or puts in a special token; "official" does both, as
            published.
    """

    rate: float = 0.15
    max_masked: int = 20
    units: str = "words"
    special_tokens: str = "never"

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ValueError(f"mask_rate is {self.rate}; it is a fraction, 0 to 1")
        if self.max_masked < 1:
            raise ValueError(f"max_masked is {self.max_masked}; at least 1 slot is needed")
        choices.check("mask_units", self.units, ("words", "spans"))
        choices.check("special_tokens", self.special_tokens, ("never", "official"))

    def __call__(
        self, encoded: Encoded, tokenizer: Tokenizer, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Masks one text.

        Returns:
            `text_masked i32[L]`, `masked_positions i32[K]` (ascending; 0 in unused slots),
            `masked_ids i32[K]` (the true ids; -100 in unused slots).
        """
        number = min(self.max_masked, max(1, round(self.rate * encoded.length)))
        if self.units == "words":
            chosen = _whole_words(encoded, number, self.max_masked, rng)
        else:
            official = self.special_tokens == "official"
            chosen = _spans(encoded.mask if official else encoded.inside, number, rng).tolist()
        ids = encoded.ids.tolist()
        hidden = [ids[place] for place in chosen]
        unused = self.max_masked - len(chosen)
        for place, token in zip(chosen, self._corrupted(hidden, tokenizer, rng), strict=True):
            ids[place] = token
        return {
            "text_masked": np.array(ids, np.int32),
            "masked_positions": np.array([*chosen, *[0] * unused], np.int32),
            "masked_ids": np.array([*hidden, *[IGNORED] * unused], np.int32),
        }

    def _corrupted(
        self, ids: list[int], tokenizer: Tokenizer, rng: np.random.Generator
    ) -> list[int]:
        fates = rng.random(len(ids)).tolist()
        if self.special_tokens == "never":
            normal = tokenizer.normal_ids
            drawn = normal[rng.integers(len(normal), size=len(ids))]
        else:
            drawn = rng.integers(tokenizer.vocab_size, size=len(ids))
        masked = tokenizer.mask_id
        return [
            masked if fate < 0.8 else other if fate < 0.9 else own
            for fate, other, own in zip(fates, drawn.tolist(), ids, strict=True)
        ]


def _spans(usable: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Usable positions but 0 in random order, each alone or as a span of 2 or 3, until `number`."""
    starts = rng.permutation(1 + np.flatnonzero(usable[1:]))
    sizes = np.where(rng.random(len(starts)) < 0.2, rng.integers(2, 4, len(starts)), 1)
    spans = starts[:, None] + np.arange(3)  # i32[start 3]
    inside = (np.arange(3) < sizes[:, None]) & np.append(usable, [False, False])[spans]
    walked, span_of = spans[inside], np.nonzero(inside)[0]
    _, first = np.unique(walked, return_index=True)
    first.sort()
    if len(first) > number:  # the span that reaches `number` is taken whole, then cut at random
        first = first[span_of[first] <= span_of[first[number - 1]]]
        first = rng.choice(first, number, replace=False)
    return np.sort(walked[first])


def _whole_words(encoded: Encoded, number: int, slots: int, rng: np.random.Generator) -> list[int]:
    """Words in random order, those that still fit in `number` tokens; at least one word."""
    inside = encoded.inside.tolist()
    starts = [place for place, first in enumerate(encoded.word_start.tolist()) if first]
    if not starts:
        return []
    after = [*starts[1:], len(inside)]
    # A sep ends a word, too.
    ends = [start + sum(inside[start:end]) for start, end in zip(starts, after, strict=True)]
    chosen: list[int] = []
    for word in rng.permutation(len(starts)).tolist():
        if ends[word] - starts[word] <= number - len(chosen):
            chosen += range(starts[word], ends[word])
        if len(chosen) == number:
            break
    if not chosen:  # every word is longer than `number`
        shortest = min(range(len(starts)), key=lambda word: ends[word] - starts[word])
        chosen = list(range(starts[shortest], ends[shortest]))
    return sorted(chosen)[:slots]


def block_patch_mask(grid: int, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    """Hides blocks of patches, exactly `num_masked` in all (BEiT; X-FM 2.4).

    A block has at least 16 of 14 x 14 patches as published, and the same share of another grid; its
    aspect ratio is log-uniform in 0.3 .. 1 / 0.3.

    Returns:
        bool[grid * grid], row-major; True = masked.
    """
    if not 0 <= num_masked <= grid * grid:
        raise ValueError(f"num_masked is {num_masked}; the image has {grid * grid} patches")
    least = max(1, round(16 * grid * grid / 196))
    bits, left = 0, num_masked  # a bit for each patch: far cheaper than an array so small
    while left:
        block = _block(grid, bits, left, least, rng)
        if not block:
            break
        left -= (block & ~bits).bit_count()
        bits |= block
    size = grid * grid
    octets = np.frombuffer(bits.to_bytes(-(-size // 8), "little"), np.uint8)
    flat = np.unpackbits(octets, count=size, bitorder="little").view(bool)
    if left:
        flat[rng.choice(np.flatnonzero(~flat), left, replace=False)] = True
    return flat


def _block(grid: int, bits: int, left: int, least: int, rng: np.random.Generator) -> int:
    """One more block that hides 1 to `left` new patches, as bits; 0 after ten misses."""
    for area, aspect, top, start in rng.random((10, 4)).tolist():
        area = least + area * (left - least)  # also where fewer than `least` are left
        aspect = math.exp(_LOG_LEAST_ASPECT * (1 - 2 * aspect))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < grid and 0 < width < grid):
            continue
        y, x = int(top * (grid - height + 1)), int(start * (grid - width + 1))
        block = _corner_block(grid, height, width) << y * grid + x
        if 0 < (block & ~bits).bit_count() <= left:
            return block
    return 0


@functools.lru_cache(maxsize=4096)
def _corner_block(grid: int, height: int, width: int) -> int:
    """The bits of a block in the first row and column."""
    return sum(((1 << width) - 1) << row * grid for row in range(height))


def random_patch_mask(grid: int, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    """Hides single patches, exactly `num_masked` of them: bool[grid * grid]."""
    if not 0 <= num_masked <= grid * grid:
        raise ValueError(f"num_masked is {num_masked}; the image has {grid * grid} patches")
    mask = np.zeros(grid * grid, bool)
    mask[rng.choice(grid * grid, num_masked, replace=False)] = True
    return mask


PATCH_MASKS = {"blocks": block_patch_mask, "random": random_patch_mask}
