"""Texts over images: each image's keys and values are projected once, however many texts look.

Images are visited in chunks; the texts that look at a chunk are asked in batches of one length. A
chunk of one image is a batch of one; otherwise images and texts are padded to the same number, so
that there are no more shapes than that.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.inference.items import Items
from unified_fm.inference.parts import Parts
from unified_fm.inference.preprocessing import TEXT_ARRAYS
from unified_fm.inference.programs import by_length, padded, stacked

Row = Mapping[str, np.ndarray]


class Pairs:
    """Images that texts look at.

    Attributes:
        sizes: (height, width) of each image that was visited, in pixels, upright; by its index.
    """

    def __init__(self, parts: Parts, images: Items, on_error: str):
        self._parts, self._images, self._on_error = parts, images, on_error
        self._programs = parts.programs
        self.sizes: dict[int, tuple[int, int]] = {}

    def ask(
        self,
        fn: Callable,
        texts: Sequence[Row | None],
        pairs: Sequence[tuple[int, int]],
        digest: Callable[[dict[str, np.ndarray]], Any] = dict,
    ) -> list[Any]:
        """What `fn(net, batch)` says of each pair, a dict; None where image or text was skipped.

        Args:
            fn: one of `queries` for texts over images.
            texts: arrays of each text; all of one length L.
            pairs: (image, text).
            digest: makes of such a dict what is kept, where all of it would be large.

        Raises:
            BadItem: an image that cannot be used.
        """
        found: list[Any] = [None] * len(pairs)
        owner = self._owners()
        looking: dict[int, list[int]] = {}  # image -> pairs
        for number, (image, text) in enumerate(pairs):
            if texts[text] is not None:
                looking.setdefault(owner[image], []).append(number)
        wanted = sorted(looking)
        for part in self._programs.chunks(len(wanted)):
            shown = self._decoded(wanted[part])
            if shown:
                row_of = {image: row for row, image in enumerate(shown)}
                inside = sorted(n for image in row_of for n in looking[image])
                rows = [row_of[owner[pairs[n][0]]] for n in inside]
                own = [texts[pairs[n][1]] for n in inside]
                asked = self._chunk(fn, [*shown.values()], own, rows, digest)
                for number, answer in zip(inside, asked, strict=True):
                    found[number] = answer
        for image, first in enumerate(owner):
            if first in self.sizes:
                self.sizes[image] = self.sizes[first]
        return found

    def _chunk(self, fn, pixels, texts, rows, digest):
        """The answers of texts that look at images of one chunk, by their rows in it."""
        groups = by_length(texts, self._parts.preprocessing.reader(True).max_len)
        size = 1
        if len(pixels) > 1:
            size = self._programs.size(max(len(pixels), *map(len, groups.values())))
        images = padded({"image": np.stack(pixels)}, size)
        memory = self._programs.ask(queries.image_memory, images)
        found = [None] * len(texts)
        for length, members in groups.items():
            for part in self._programs.chunks(len(members)) if size == 1 else _parts(members, size):
                some = members[part]
                batch = stacked([texts[n] for n in some], length, TEXT_ARRAYS)
                batch["rows"] = np.array([rows[n] for n in some], np.int32)
                wide = self._programs.size(len(some)) if size == 1 else size
                answer = self._programs.ask(fn, {**padded(batch, wide), "memory": memory})
                answer = {name: np.asarray(array) for name, array in answer.items()}
                for row, number in enumerate(some):
                    found[number] = digest({name: array[row] for name, array in answer.items()})
        return found

    def _decoded(self, images):
        """{image: its pixels}, without those that are skipped."""
        reading = self._parts.preprocessing

        def read(item):
            picture = reading.picture(item)
            return (picture.height, picture.width), reading.pixels(picture)

        found = self._images.decoded(read, images, self._on_error)
        self.sizes |= {image: size for image, (size, _) in found.items()}
        return {image: pixels for image, (_, pixels) in found.items()}

    def _owners(self) -> list[int]:
        """The first place of each image: the same path, or the same object, is one image."""
        first: dict[Any, int] = {}
        return [
            first.setdefault(
                os.fspath(item) if isinstance(item, str | os.PathLike) else id(item), n
            )
            for n, item in enumerate(self._images.values)
        ]


def _parts(members: Sequence[int], size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(members), size)]


def probability(margin: Any) -> np.float32:
    """Of a match, from the logit of "match" minus that of "no match"."""
    return np.float32(1 / (1 + np.exp(-np.float64(margin))))
