"""Scenes for tasks: the objects of the composed scenes, put where a task wants them.

What a split may show is as in `scenes`: in "train" no held-out pair of objects meets, and a picture
of "val" or "test" with two or more objects has a pair held out for that split. The pictures are
others than those of pre-training: their numbers are drawn from other seeds, and some stand in rows
or on grounds of two colours, which pre-training has not.

Letters: S side of a picture.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unified_fm.demo import scenes

SEED = 11  # before the numbers of a picture: `scenes` begins with the seed of a source, 0
# Light, as the plain grounds are: 200 to 255 in each channel.
GROUNDS = {
    "blue": (200, 216, 254),
    "green": (206, 250, 206),
    "yellow": (254, 250, 202),
    "pink": (254, 206, 218),
}
_SLACK = 2  # a ground's channels differ by so much from one picture to the next
_TRIES = 10_000
_LAYOUT = scenes.Layout()  # that of pre-training


class Picture(NamedTuple):
    """A composed picture.

    Attributes:
        pixels: u8[S S 3].
        boxes: x, y, width, height of each object, in the order in which they were asked for.
        names: of the objects.
    """

    pixels: np.ndarray
    boxes: list[list[int]]
    names: list[str]


class Stage:
    """The objects and the rules of one split.

    Attributes:
        names: of the objects, by number.
        layout: sides of pictures and objects.
    """

    def __init__(self, folder: Path, split: str, layout: scenes.Layout = _LAYOUT):
        """Reads the objects that the demo's preparation wrote under `folder`."""
        names, drawings = scenes.load_objects(folder)
        self.names: tuple[str, ...] = tuple(names)
        self.layout = layout
        pairs = scenes.held_out_pairs(self.names)
        forbidden = [pair for other in pairs if other != split for pair in pairs[other]]
        self._together = scenes.may_meet(len(names), forbidden)
        self._partners: dict[int, list[int]] = {}
        for a, b in pairs.get(split, ()):
            self._partners.setdefault(a, []).append(b)
            self._partners.setdefault(b, []).append(a)
        sides = range(layout.min_side, layout.max_side + 1)
        self._cutouts = [[scenes.prepared(d, side) for side in sides] for d in drawings]

    def turns(self, rng: np.random.Generator) -> Iterator[int]:
        """The objects without end, each once before any comes again."""
        while True:
            yield from rng.permutation(len(self.names)).tolist()

    def meet(self, objects: Collection[int]) -> bool:
        """Whether these may be in one picture, maybe with others."""
        return all(self._together[a][b] for a in objects for b in objects if a < b)

    def whole(self, objects: Collection[int]) -> bool:
        """Whether these alone may be a picture."""
        return self.meet(objects) and (len(objects) < 2 or self._has_held_out(objects))

    def cast(
        self,
        rng: np.random.Generator,
        count: int,
        *,
        include: Sequence[int] = (),
        exclude: Collection[int] = (),
    ) -> list[int]:
        """Different objects for one picture of this split, those of `include` first.

        Raises:
            ValueError: there are none.
        """
        for _ in range(_TRIES):
            found = list(include)
            if count > 1 and not self._has_held_out(found):
                first = found[0] if found else int(rng.choice(list(self._partners)))
                found = [*(found or [first]), int(rng.choice(self._partners[first]))]
            if len(found) > count:
                break
            found += rng.integers(len(self.names), size=count - len(found)).tolist()
            right = len(set(found)) == count and not set(found) & set(exclude)
            if right and self.meet(found):
                return found
        named = [self.names[i] for i in include]
        raise ValueError(f"no {count} objects with {named} that may be in one picture were found")

    def free(self, which: Sequence[int], rng: np.random.Generator) -> Picture:
        """Anywhere on a plain ground, with hardly any overlap: as in pre-training."""
        layout = self.layout
        cutouts = [self._cut(i, layout.max_side, rng) for i in which]
        shapes = [clear.shape[:2] for _, clear in cutouts]
        corners = scenes.place(shapes, layout.size, layout.max_overlap, rng)
        return self._paint(200 + rng.integers(56, size=3), which, cutouts, corners)

    def row(self, which: Sequence[int], rng: np.random.Generator) -> Picture:
        """In a row from left to right on a plain ground; heights differ, columns do not overlap."""
        size = self.layout.size
        cutouts = [self._cut(i, size // len(which), rng) for i in which]
        widths = [clear.shape[1] for _, clear in cutouts]
        gaps = np.sort(rng.integers(size - sum(widths) + 1, size=len(which))).tolist()
        corners = [
            (gap + sum(widths[:k]), int(rng.integers(size - clear.shape[0] + 1)))
            for k, (gap, (_, clear)) in enumerate(zip(gaps, cutouts, strict=True))
        ]
        return self._paint(200 + rng.integers(56, size=3), which, cutouts, corners)

    def halves(
        self,
        left: Sequence[int],
        right: Sequence[int],
        colours: tuple[str, str],
        rng: np.random.Generator,
    ) -> Picture:
        """One or two objects on each half of a ground of two colours; `boxes` has the left first.

        Args:
            left, right: objects on each half.
            colours: of GROUNDS, of the left and the right half.
            rng: draws sides, places and shades.
        """
        half = self.layout.size // 2
        ground = np.empty((self.layout.size, self.layout.size, 3), np.uint8)
        cutouts, corners = [], []
        for side, which in enumerate((left, right)):
            shade = np.array(GROUNDS[colours[side]]) + rng.integers(-_SLACK, 2, size=3)
            ground[:, side * half : (side + 1) * half] = shade
            slots = rng.permutation(2)[: len(which)].tolist()  # above or below
            for i, slot in zip(which, slots, strict=True):
                cutouts.append(self._cut(i, half, rng))
                height, width = cutouts[-1][1].shape[:2]
                x, y = rng.integers(half - width + 1), rng.integers(half - height + 1)
                corners.append((side * half + int(x), slot * half + int(y)))
        return self._paint(ground, [*left, *right], cutouts, corners)

    def _has_held_out(self, objects: Collection[int]) -> bool:
        """Whether a pair is held out for this split, where any is."""
        partners = self._partners
        return not partners or any(b in partners.get(a, ()) for a in objects for b in objects)

    def _cut(self, which: int, longest: int, rng: np.random.Generator) -> scenes.Cutout:
        """An object whose longer side is anything up to `longest`."""
        longest = min(longest, self.layout.max_side)
        return self._cutouts[which][int(rng.integers(longest - self.layout.min_side + 1))]

    def _paint(self, ground, which, cutouts, corners) -> Picture:
        pixels = np.empty((self.layout.size, self.layout.size, 3), np.uint8)
        pixels[:] = ground
        boxes = scenes.paste(pixels, cutouts, corners)
        return Picture(pixels, boxes, [self.names[i] for i in which])


def numbers(task: str, split: str) -> np.random.Generator:
    """The numbers of a task's split, which no other has: the same at every preparation."""
    return np.random.default_rng([SEED, scenes.SPLITS.index(split), *task.encode()])
