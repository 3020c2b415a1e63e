"""`refcoco:FILE[:SPLIT][@IMAGES]`: expressions, and the box of what each refers to.

    refcoco:finetune_refcoco_testA.json@data/coco/train2014    (MDETR; the file is one split)
    refcoco:refcoco.json:testA@data/coco/train2014             (the JSON that TFDS is built from)
    refcoco:refcoco.jsonl:val@data/coco                        (ours, below)

Ours has a line for each object, which `write` makes of any of these:

    {"image": "COCO_train2014_000000000042.jpg", "image_id": 42, "ref_id": 7, "ann_id": 9,
     "split": "val", "box": [x, y, width, height], "width": 640, "height": 480,
     "sentences": [{"sent_id": 3, "text": "the left one"}]}                        (one line)

One example for each *expression*, for that is what is scored: `id` (the `sent_id`), `image`,
`text`, `box` (pixels of the image), `size` (width, height), `ref_id`, `image_id`, `split`, and the
same as `regions`. REFER's own files (`refs(unc).p`) are pickles and are refused; the
`refcoco+_test.json` of X-VLM and X-FM has no boxes, and is refused too.
"""

import json
import logging
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import base
from unified_fm.files import write_whole

_log = logging.getLogger(__name__)

_INSTEAD = "MDETR's finetune_refcoco_*.json, the refcoco.json that TFDS is built from, or our JSONL"


class Expression(NamedTuple):
    """An expression, and the box x, y, width, height of what it refers to, in pixels."""

    id: int | str
    text: str
    box: tuple[float, float, float, float]
    image: str
    image_id: int | str
    size: tuple[int, int]  # width, height
    ref_id: int | str
    ann_id: int | str | None
    split: str


class Source(base.Source):
    """Random access to the expressions of a split; see the module for the fields."""

    def __init__(self, argument: str):
        """Reads the file.

        Raises:
            ValueError: another layout, no boxes, or no such split.
            FileNotFoundError: no such file.
        """
        file = argument.partition("@")[0]
        official.refuse_pickle(file.rpartition(":")[0] or file, _INSTEAD)
        parts = official.argument(argument, "refcoco")
        self._file = parts.file
        self._images = official.Images(parts.images, parts.file)
        self._rows = read(parts.file, parts.part)
        for split, (objects, images, texts) in counts(self._rows).items():
            _log.info(
                "refcoco:%s, %s: %d objects in %d images, %d expressions",
                *(argument, split, objects, images, texts),
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        return {
            "id": row.id,
            "image": self._images.find(row.image, f"train2014/{row.image}"),
            "text": row.text,
            "box": list(row.box),
            "size": list(row.size),
            "regions": [{"box": list(row.box), "text": row.text}],
            "ref_id": row.ref_id,
            "image_id": row.image_id,
            "split": row.split,
        }

    def place(self, index: int) -> str:
        """The file and the expression's id."""
        return f"{self._file}, expression {self._rows[index].id}"


def read(file: pathlib.Path, split: str = "") -> list[Expression]:
    """The expressions of a split, or of all, in the order of the file.

    Raises:
        WrongFile: a pickle, another layout, no boxes, or no such split.
    """
    official.refuse_pickle(file, _INSTEAD)
    if official.is_lines(file):
        found = [each for n, row in official.load_lines(file) for each in _ours(row, file, n)]
    else:
        content = official.load_json(file)
        if isinstance(content, dict) and "ref" in content:
            found = _of_tfds(content, file)
        elif isinstance(content, dict) and "annotations" in content:
            found = _of_mdetr(content, file)
        elif isinstance(content, list):
            raise WrongFile(
                f"{file} is an array of images and expressions, without boxes: X-VLM and X-FM take"
                f" those from pickles. Give {_INSTEAD}"
            )
        else:
            raise WrongFile(f"{file} is none of the layouts that are read: {_INSTEAD}")
    if not split:
        return found
    there = sorted({row.split for row in found})
    rows = [row for row in found if row.split == split]
    if not rows:
        raise official.no_split(split, there, file)
    return rows


def counts(rows: Iterable[Expression]) -> dict[str, tuple[int, int, int]]:
    """{split: (objects, images, expressions)}: papers count the first, scores the last."""
    found: dict[str, tuple[set, set, list]] = {}
    for row in rows:
        objects, images, texts = found.setdefault(row.split, (set(), set(), []))
        objects.add(row.ref_id)
        images.add(row.image_id)
        texts.append(row.id)
    return {split: (len(a), len(b), len(c)) for split, (a, b, c) in found.items()}


def write(path: pathlib.Path, rows: Iterable[Expression]) -> None:
    """Writes our JSONL, a line for each object with its expressions."""
    objects: dict[Any, dict[str, Any]] = {}
    for row in rows:
        line = objects.setdefault(
            (row.split, row.ref_id),
            {
                "image": row.image,
                "image_id": row.image_id,
                "ref_id": row.ref_id,
                "ann_id": row.ann_id,
                "split": row.split,
                "box": list(row.box),
                "width": row.size[0],
                "height": row.size[1],
                "sentences": [],
            },
        )
        line["sentences"].append({"sent_id": row.id, "text": row.text})
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in objects.values())
    write_whole(path, "".join(lines))


def _ours(record: dict[str, Any], file: pathlib.Path, line: int) -> list[Expression]:
    where = f"{file}, line {line}"
    width, height = (official.field(record, name, int, where) for name in ("width", "height"))
    sentences = official.field(record, "sentences", list, where)
    return [
        Expression(
            official.field(sentence, "sent_id", (int, str), where),
            official.field(sentence, "text", str, where),
            _box(official.field(record, "box", list, where), where),
            official.field(record, "image", str, where),
            official.field(record, "image_id", (int, str), where),
            (width, height),
            official.field(record, "ref_id", (int, str), where),
            record.get("ann_id"),
            official.field(record, "split", str, where),
        )
        for sentence in sentences
    ]


def _of_tfds(content: dict[str, Any], file: pathlib.Path) -> list[Expression]:
    images = official.field(content, "coco_anns", dict, str(file))
    found = []
    for number, ref in enumerate(official.array(content, file, "ref")):
        where = f"{file}: ref[{number}]"
        key = official.field(ref, "image_id", (int, str), where)
        image = official.field(images, str(key), dict, f"{file}: coco_anns")
        info = official.field(image, "info", dict, where)
        size = tuple(official.field(info, name, int, where) for name in ("width", "height"))
        box = _box(official.field(ref["ann"], "bbox", list, where) if "ann" in ref else None, where)
        for sentence in official.field(ref, "sentences", list, where):
            found.append(
                Expression(
                    official.field(sentence, "sent_id", (int, str), where),
                    official.field(sentence, "sent", str, where),
                    box,
                    official.field(info, "file_name", str, where),
                    key,
                    (size[0], size[1]),
                    official.field(ref, "ref_id", (int, str), where),
                    ref.get("ann_id"),
                    official.field(ref, "split", str, where),
                )
            )
    return found


def _of_mdetr(content: dict[str, Any], file: pathlib.Path) -> list[Expression]:
    """An "image" of each expression; what it refers to is the first annotation of that id."""
    first: dict[Any, tuple[dict[str, Any], str]] = {}
    for number, record in enumerate(official.array(content, file, "annotations")):
        where = f"{file}: annotations[{number}]"
        first.setdefault(official.field(record, "image_id", (int, str), where), (record, where))
    split = file.stem.rpartition("_")[2]
    found = []
    for number, record in enumerate(official.array(content, file, "images")):
        where = f"{file}: images[{number}]"
        key = official.field(record, "id", (int, str), where)
        if "caption" not in record or key not in first:
            missing = "caption" if "caption" not in record else "annotation"
            raise WrongFile(f"{where} has no {missing}: MDETR's form has one of each expression")
        note, its = first[key]
        width, height = (official.field(record, name, int, where) for name in ("width", "height"))
        found.append(
            Expression(
                key,
                official.field(record, "caption", str, where),
                _box(official.field(note, "bbox", list, its), its),
                official.field(record, "file_name", str, where),
                record.get("original_id", key),
                (width, height),
                note.get("original_id", note.get("id", key)),
                note.get("original_id"),
                split,
            )
        )
    return found


def _box(found: Any, where: str) -> tuple[float, float, float, float]:
    numbers = [x for x in found or [] if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) != 4 or len(found) != 4 or min(numbers[2:]) <= 0:
        raise WrongFile(
            f"{where}: box {official.shown(found)} is not x, y, width, height in pixels, both sides"
            " above 0"
        )
    x, y, width, height = map(float, numbers)
    return x, y, width, height
