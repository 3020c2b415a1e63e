"""`nlvr2:FILE[@IMAGES]`: a sentence that is true of two images, or is not.

    nlvr2:dev.json@data/nlvr2          nlvr2:nlvr_train.json@data/nlvr2       (ALBEF, X-VLM, X-FM)

The official files have one JSON object per line whatever their name says; ALBEF's are an array of
`{"images": [left, right], "sentence", "label"}`. Each is an example: `id` (the `identifier`),
`images` (left, right), `text`, `label` (0 or 1, in `class_names` False, True); test files without
labels have none. The images of `dev-850-0-1` are `dev-850-0-img0.png` and `-img1.png`, looked for
below IMAGES, `IMAGES/dev`, and, with the record's `directory` (of training), `IMAGES/train/42` and
`IMAGES/images/train/42`. A part of the published addresses is dead: an image that is not there is
skipped and counted.
"""

import pathlib
from typing import Any, NamedTuple

from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources._one_file import OneFile

LABELS = ("False", "True")  # as words: bool("False") is true


class Pair(NamedTuple):
    """A sentence and two images."""

    id: str
    sentence: str
    label: str  # of LABELS; "" where it is hidden
    images: tuple[tuple[str, ...], tuple[str, ...]]  # paths of each; the first that is there counts


class Source(OneFile):
    """Random access to the pairs; see the module for the fields."""

    class_names = LABELS

    form = "nlvr2"

    def rows_of(self, file: pathlib.Path) -> list[Pair]:
        """See `read`."""
        return read(file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        images = [self._images.find(*names) for names in row.images]
        example: dict[str, Any] = {"id": row.id, "images": images, "text": row.sentence}
        return example | ({"label": LABELS.index(row.label)} if row.label else {})

    def place(self, index: int) -> str:
        """The file and the identifier."""
        return f"{self._file}, {self._rows[index].id}"


def read(file: pathlib.Path) -> list[Pair]:
    """The pairs, in the order of the file.

    Raises:
        WrongFile: another layout, or a label that is neither "True" nor "False".
    """
    if official.is_lines(file):
        return [_official(row, f"{file}, line {n}") for n, row in official.load_lines(file)]
    found = official.load_json(file)
    if isinstance(found, dict):
        return [_official(found, f"{file}, line 1")]
    rows = official.array(found, file)
    return [_albef(row, f"{file}, row {n}", n) for n, row in enumerate(rows)]


def _official(record: dict[str, Any], where: str) -> Pair:
    name = official.field(record, "identifier", str, where)
    fields = name.split("-")
    if len(fields) != 4:
        raise WrongFile(f"{where}: identifier {name!r} is not split-set-pair-sentence")
    split, stem = fields[0], "-".join(fields[:3])
    folders = ["", f"{split}/"]
    if "directory" in record:
        folders += [f"{split}/{record['directory']}/", f"images/{split}/{record['directory']}/"]
    folders.append(f"images/{split}/")
    left, right = (tuple(f"{folder}{stem}-img{side}.png" for folder in folders) for side in (0, 1))
    return Pair(
        name, official.field(record, "sentence", str, where), _label(record, where), (left, right)
    )


def _albef(record: dict[str, Any], where: str, number: int) -> Pair:
    images = official.texts(official.field(record, "images", list, where), where)
    if len(images) != 2:
        raise WrongFile(f"{where}: {len(images)} images; two are needed")
    sentence = official.field(record, "sentence", str, where)
    name = str(record.get("identifier", number))
    return Pair(name, sentence, _label(record, where), ((images[0],), (images[1],)))


def _label(record: dict[str, Any], where: str) -> str:
    found = record.get("label", "")
    if isinstance(found, bool) or (isinstance(found, str) and found in (*LABELS, "")):
        return str(found)
    raise WrongFile(f"{where}: label is {found!r}; possible: {', '.join(LABELS)} (as words)")
