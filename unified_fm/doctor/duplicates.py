"""Copies among hashes: those of the same content, and those that only look the same.

Two pictures look the same if their dHashes differ in at most `NEAR` of 64 bits, their aHashes in at
most `NEAR`, and their 8 x 8 means in grey by at most `GREY` of 255 on average. Pictures of nearly
one colour are not compared: their hashes say nothing. What looks the same as a third is in one
group with it.
"""

from collections.abc import Iterator

import numpy as np

from unified_fm.doctor import pictures

NEAR = 3
GREY = 3.0
FLAT = 4.0  # standard deviation of the 8 x 8 means below which a picture is nearly one colour
_CROWD = 3000  # in one band's drawer; of more each is only compared with its next neighbours
_NEXT = 16
_STEP = 512

Groups = list[list[int]]  # places of copies, ascending, the largest group first


def same(contents: np.ndarray) -> Groups:
    """Groups of two and more rows of u64[n 2] that are equal."""
    _, which, counts = np.unique(contents, axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(counts)
    found = [order[end - count : end].tolist() for end, count in zip(ends, counts, strict=True)
             if count > 1]  # fmt: skip
    return _sorted(found)


def near(d_hashes: np.ndarray, grey: np.ndarray) -> Groups:
    """Groups of pictures that look the same, by dHash u64[n] and means u8[n 64].

    Differences of at most 3 bits leave one of 4 bands of 16 bits as it is, so only pictures with a
    band in common are compared.
    """
    places = np.flatnonzero(grey.std(1) >= FLAT)
    d_hashes, grey = d_hashes[places], grey[places]
    a_hashes = pictures.a_hash(grey) if len(grey) else np.empty(0, np.uint64)
    parent = np.arange(len(places))
    for band in range(4):
        values = (d_hashes >> np.uint64(16 * band)).astype(np.uint16)
        order = np.lexsort((d_hashes, values))
        edges = np.flatnonzero(np.diff(values[order])) + 1
        for drawer in np.split(order, edges):
            for one, others in _pairs(drawer):
                alike = _alike(d_hashes[one], d_hashes[others])
                alike &= _alike(a_hashes[one], a_hashes[others])
                one, others = one[alike], others[alike]
                far = np.abs(grey[one].astype(np.int16) - grey[others]).mean(1)
                for a, b in zip(one[far <= GREY], others[far <= GREY], strict=True):
                    _join(parent, int(a), int(b))
    roots = np.array([_root(parent, k) for k in range(len(parent))], np.int64)
    groups: dict[int, list[int]] = {}
    for place, root in zip(places.tolist(), roots.tolist(), strict=True):
        groups.setdefault(root, []).append(place)
    return _sorted([group for group in groups.values() if len(group) > 1])


def flat(grey: np.ndarray) -> int:
    """Pictures of nearly one colour."""
    return int((grey.std(1) < FLAT).sum())


def _pairs(drawer: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of a drawer, in parts; of a crowded one only neighbours."""
    if len(drawer) > _CROWD:
        for step in range(1, _NEXT + 1):
            yield drawer[:-step], drawer[step:]
        return
    for start in range(0, len(drawer) - 1, _STEP):
        part = drawer[start : start + _STEP]
        one = np.repeat(np.arange(len(part)), len(drawer)) + start
        other = np.tile(np.arange(len(drawer)), len(part))
        upper = other > one
        yield drawer[one[upper]], drawer[other[upper]]


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one ^ other) <= NEAR


def _root(parent: np.ndarray, place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = int(parent[place])
    return place


def _join(parent: np.ndarray, one: int, other: int) -> None:
    one, other = sorted((_root(parent, one), _root(parent, other)))
    parent[other] = one  # the first one leads, so the groups do not depend on the order of pairs


def _sorted(groups: Groups) -> Groups:
    return sorted(groups, key=lambda group: (-len(group), group[0]))
