"""Composed scenes: a few real drawings on a plain ground, with true boxes, phrases and a caption.

A scene is a pure function of (seed, split, index), so a million of them need no file. The drawings
are the same in every split: what is held out is which objects appear together (`held_out_pairs`)
and, of course, where they lie. So a model tested here may be said to name, match and locate these
objects, and nothing about words for relations.

Letters: S scene side, N number of objects.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np

from unified_fm.demo import drawings

SPLITS = ("train", "val", "test")
Cutout: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a scene looks. Lengths in pixels.

    Raises:
        ValueError: sides that do not fit: two of the largest cut-outs must fit side by side when a
            scene may have several.
    """

    size: int = 48  # side of the scene
    min_side: int = 14  # longer side of the smallest cut-out
    max_side: int = 24  # longer side of the largest
    counts: tuple[int, ...] = (1, 2, 3)  # numbers of objects, each equally likely
    max_overlap: float = 0.05  # of two boxes, as a share of the smaller one

    def __post_init__(self):
        room = self.size if max(self.counts) == 1 else self.size // 2
        if not 1 <= self.min_side <= self.max_side <= room:
            raise ValueError(
                f"cut-outs of {self.min_side} to {self.max_side} px do not fit a scene of "
                f"{self.size} px with {max(self.counts)} objects: at most {room} px"
            )
        if not 1 <= min(self.counts) <= max(self.counts) <= 4:
            raise ValueError(f"a scene has 1 to 4 objects, not {self.counts}")


class Scenes:
    """The scenes of one split, by index.

    `scenes[i]` is `{"image": u8[S S 3], "text": caption, "regions": [{"box": [x, y, w, h], "text":
    phrase}], "objects": [names], "id": int}`. A box is the bounding box of the cut-out's alpha.
    `id` says which objects there are, whatever their order: scenes with the same id have the same
    caption but for the order, so in a contrastive loss they match each other.

    In "train" no two objects of a held-out pair meet. A scene of "val" or "test" with two or more
    objects always has a pair held out for that split (and none held out for the other), and the
    sets of objects are distinct within each aligned block of `block` scenes (100, or as many as
    there are held-out pairs): a retrieval among 100 captions has one right answer.
    """

    def __init__(
        self,
        names: Sequence[str],
        drawings: Sequence[np.ndarray],
        *,
        split: str = "train",
        length: int = 1_000_000,
        layout: Layout = Layout(),
        seed: int = 0,
    ):
        """Resizes every drawing (u8[H W 4]) to every size once; a few hundred small pictures.

        Raises:
            ValueError: an unknown split, or too few objects for scenes without held-out pairs.
        """
        if split not in SPLITS:
            raise ValueError(f"no split {split!r} of composed scenes; there are {SPLITS}")
        if len(names) != len(drawings):
            raise ValueError(f"{len(names)} names for {len(drawings)} drawings")
        most = max(layout.counts)
        if most > 1 and len(names) < most * (2 * _reach(len(names)) + 1):
            raise ValueError(
                f"scenes of {most} objects that avoid the held-out pairs need more than "
                f"{len(names)} objects"
            )
        self.names = tuple(names)
        self.layout = layout
        self._length, self._seed, self._split = length, seed, split
        pairs = held_out_pairs(self.names)
        self._pairs = pairs.get(split, ())
        self._together = may_meet(len(names), [p for s in pairs if s != split for p in pairs[s]])
        self.block = min(100, len(self._pairs))
        sides = range(layout.min_side, layout.max_side + 1)
        self._cutouts = [[prepared(drawing, side) for side in sides] for drawing in drawings]
        self._plan = functools.lru_cache(maxsize=64)(self._plan_block)

    def __len__(self):
        return self._length

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < self._length:
            raise IndexError(f"scene {index} of {self._length}")
        rng = np.random.default_rng((self._seed, SPLITS.index(self._split), index))
        if self._split == "train" or max(self.layout.counts) == 1:
            which = self._draw(rng)
        else:
            which = self._plan(index // self.block)[index % self.block]
        image, boxes = self._compose(which, rng)
        names = [self.names[i] for i in which]
        return {
            "image": image,
            "text": caption(names),
            "regions": [
                {"box": box, "text": caption([name])}
                for box, name in zip(boxes, names, strict=True)
            ],
            "objects": names,
            "id": functools.reduce(
                lambda code, i: code * (len(self.names) + 1) + i + 1, sorted(which), 0
            ),
        }

    def _draw(self, rng, start=()):
        """Objects that may meet, in random order, beginning with `start`."""
        count = self.layout.counts[int(rng.random() * len(self.layout.counts))]
        while True:
            drawn = (rng.random(4) * len(self.names)).astype(int).tolist()
            which = [*start, *drawn][: max(count, len(start))]
            if all(self._together[a][b] for k, a in enumerate(which) for b in which[:k]):
                return which

    def _plan_block(self, number):
        """The objects of `block` consecutive scenes: each has a held-out pair, no two are equal."""
        rng = np.random.default_rng((self._seed, SPLITS.index(self._split), number, 1 << 40))
        plan, seen = [], set()
        for pair in rng.permutation(np.array(self._pairs))[: self.block].tolist():
            which = self._draw(rng, pair)
            while frozenset(which) in seen:
                which = self._draw(rng, pair)
            seen.add(frozenset(which))
            plan.append([which[i] for i in rng.permutation(len(which))])
        return plan

    def _compose(self, which, rng):
        """Draws the cut-outs on a light plain ground: (u8[S S 3], boxes in the order of which)."""
        layout = self.layout
        image = np.empty((layout.size, layout.size, 3), np.uint8)
        image[:] = 200 + (rng.random(3) * 56).astype(np.uint8)
        steps = layout.max_side - layout.min_side + 1
        cutouts = [self._cutouts[i][int(r * steps)] for i, r in zip(which, rng.random(4))]  # noqa: B905
        shapes = [cutout[1].shape[:2] for cutout in cutouts]
        corners = place(shapes, layout.size, layout.max_overlap, rng)
        return image, paste(image, cutouts, corners)


def caption(names: Sequence[str]) -> str:
    """`a cat`, `a cat and an owl`, `a cat, an owl and a kite`."""
    phrases = [("an " if name[0] in "aeiou" else "a ") + name for name in names]
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def held_out_pairs(names: Sequence[str]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Pairs of objects (as sorted indices) that appear together only in "val" or only in "test".

    The objects lie on a circle in an order fixed by a hash of their names; near neighbours are the
    held-out pairs. So every object is in equally many of them: with 64 objects 4 for each split,
    that is 128 + 128 pairs of 2,016 (12.7 %).
    """
    digest = {name: hashlib.sha256(name.encode()).digest() for name in names}
    circle = sorted(range(len(names)), key=lambda i: digest[names[i]])
    reach = _reach(len(names))

    def at(distances):
        pairs = {
            cast(tuple[int, int], tuple(sorted((circle[i], circle[(i + d) % len(circle)]))))
            for d in distances
            for i in range(len(circle))
        }
        return tuple(sorted(pair for pair in pairs if pair[0] != pair[1]))

    return {"val": at(range(1, reach + 1)), "test": at(range(reach + 1, 2 * reach + 1))}


def _reach(count):
    """How far on the circle a pair is a neighbour that only one split sees."""
    return max(1, count // 32)


def load_objects(folder) -> tuple[list[str], list[np.ndarray]]:
    """Names and cropped drawings (u8[H W 4]) that the demo's preparation wrote under `folder`."""
    with np.load(folder / "cutouts.npz", allow_pickle=False) as file:
        names = [str(name) for name in file["names"]]
        squares = file["drawings"]  # u8[N 96 96 4]
    return names, [drawings.crop(square) for square in squares]


def may_meet(count: int, forbidden: Sequence[tuple[int, int]]) -> list[list[bool]]:
    """Whether two objects may be in one scene, by both their numbers. Never an object twice."""
    together = ~np.eye(count, dtype=bool)
    for a, b in forbidden:
        together[a, b] = together[b, a] = False
    return together.tolist()


def prepared(drawing: np.ndarray, side: int) -> Cutout:
    """Ready for pasting: premultiplied colour u8[h w 3], share of the ground u16[h w 1]."""
    small = drawings.resize(drawing, side)
    alpha = small[..., 3:].astype(np.uint16)
    colour = (small[..., :3] * alpha + 127) // 255
    return colour.astype(np.uint8), 255 - alpha


def paste(
    image: np.ndarray, cutouts: Sequence[Cutout], corners: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Puts cut-outs on an image u8[H W 3], in place, at corners (x, y); their boxes x, y, w, h."""
    boxes = []
    for (x, y), (colour, clear) in zip(corners, cutouts, strict=True):
        height, width = clear.shape[:2]
        part = image[y : y + height, x : x + width]
        # Premultiplied colour over the ground, in 16-bit integers: (255 * 255 + 127) fits.
        part[:] = colour + (part * clear + np.uint16(127)) // np.uint16(255)
        boxes.append([x, y, width, height])
    return boxes


def place(
    shapes: Sequence[tuple[int, int]], size: int, max_overlap: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Corners (x, y) of at most four boxes of the given (height, width) that hardly overlap."""
    for _ in range(6):
        corners = []
        for (height, width), (u, v) in zip(shapes, rng.random((4, 2)).tolist()):  # noqa: B905
            x, y = int(u * (size - width + 1)), int(v * (size - height + 1))
            if any(
                _overlap(x, y, width, height, *corner, *shape[::-1]) > max_overlap
                for corner, shape in zip(corners, shapes)  # noqa: B905
            ):
                break
            corners.append((x, y))
        if len(corners) == len(shapes):
            return corners
    # No luck: each in a quarter of its own, which always fits.
    half = size // 2
    quarters = [(0, 0), (half, 0), (0, half), (half, half)]
    corners = []
    for quarter, (height, width) in zip(rng.permutation(4).tolist(), shapes):  # noqa: B905
        u, v = rng.random(2).tolist()
        x, y = quarters[quarter]
        corners.append((x + int(u * (half - width + 1)), y + int(v * (half - height + 1))))
    return corners


def _overlap(x, y, width, height, other_x, other_y, other_width, other_height):
    """Area that two boxes share, as a share of the smaller one."""
    across = min(x + width, other_x + other_width) - max(x, other_x)
    down = min(y + height, other_y + other_height) - max(y, other_y)
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / min(width * height, other_width * other_height)
