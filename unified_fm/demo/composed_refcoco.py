"""Expressions for things in composed scenes, as JSON lines of `refcoco:`.

    refcoco.jsonl       images/000000000042.jpg

| split | expressions |
| --- | --- |
| train, val | both kinds |
| testA | by name: "the peach", one of two or three things |
| testB | by place: "the thing left of the cup", which is the middle one of three in a row |

So a model that only knows names is told apart from one that knows left and right.
"""

from collections.abc import Iterator

import numpy as np

from unified_fm.data.sources import refcoco
from unified_fm.demo import drawings, stage
from unified_fm.demo.making import Making
from unified_fm.demo.stage import Picture, Stage

# Split -> whose objects it shows, and how many pictures by name and by place.
SPLITS = {
    "train": ("train", 700, 300),
    "val": ("val", 120, 60),
    "testA": ("test", 400, 0),
    "testB": ("test", 0, 250),
}


def make(making: Making) -> None:
    """The pictures and expressions of all splits."""
    (making.folder / "images").mkdir()
    rows: list[refcoco.Expression] = []
    image_id = 0
    for split, (objects, named, placed) in SPLITS.items():
        there = Stage(making.root / "objects", objects)
        rng = stage.numbers(f"refcoco {split}", objects)
        by_name, by_place = _by_name(there, rng), _by_place(there, rng)
        # The kinds are mixed, so that the first part of a split has both.
        order = rng.permutation([True] * named + [False] * placed).tolist()
        for is_named in making.each(order):
            image_id += 1
            picture, expressions = next(by_name if is_named else by_place)
            file = f"images/{image_id:012d}.jpg"
            (making.folder / file).write_bytes(drawings.encode_jpeg(picture.pixels))
            for which, text in expressions:
                number = len(rows) + 1
                x, y, width, height = map(float, picture.boxes[which])
                rows.append(
                    refcoco.Expression(
                        id=number,
                        text=text,
                        box=(x, y, width, height),
                        image=file,
                        image_id=image_id,
                        size=(there.layout.size, there.layout.size),
                        ref_id=number,
                        ann_id=number,
                        split=split,
                    )
                )
        making.counts[split] = sum(row.split == split for row in rows)
        making.counts[f"{split} pictures"] = named + placed
    refcoco.write(making.folder / "refcoco.jsonl", rows)


def _by_name(
    there: Stage, rng: np.random.Generator
) -> Iterator[tuple[Picture, list[tuple[int, str]]]]:
    """Pictures with two expressions: (number of the box, text)."""
    turn = there.turns(rng)
    while True:
        count = int(rng.choice([n for n in there.layout.counts if n > 1]))
        which = there.cast(rng, count, include=[next(turn)])
        which = [which[i] for i in rng.permutation(count)]
        picture = there.free(which, rng)
        asked = rng.permutation(count)[:2].tolist()
        yield picture, [(i, f"the {there.names[which[i]]}") for i in asked]


def _by_place(
    there: Stage, rng: np.random.Generator
) -> Iterator[tuple[Picture, list[tuple[int, str]]]]:
    """Three in a row: both ends are told by the middle one."""
    turn = there.turns(rng)
    while True:
        which = there.cast(rng, 3, include=[next(turn)])
        which = [which[i] for i in rng.permutation(3)]
        middle = there.names[which[1]]
        picture = there.row(which, rng)
        yield (
            picture,
            [(0, f"the thing left of the {middle}"), (2, f"the thing right of the {middle}")],
        )
