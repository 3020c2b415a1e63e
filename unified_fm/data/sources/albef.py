"""`albef:FILE[@IMAGES]`: the retrieval and captioning files of ALBEF, X-VLM and X-FM.

    albef:coco_test.json@data/coco     albef:flickr30k_train.json

A JSON array. Rows of training have one caption each, `{"image", "caption", "image_id"}`, and
several rows one image; rows of val and test have an image with all its captions, a list. Each row
is an example: `id` (`image_id`, else the row's number), `image`, `text`. Images are below IMAGES,
else below the file's folder; below IMAGES a path is also tried without its first part ("coco/").
"""

import pathlib
from typing import Any

from unified_fm.data import official
from unified_fm.data.sources._one_file import OneFile
from unified_fm.data.sources.karpathy import Captioned


class Source(OneFile):
    """Random access to the rows; see the module for the fields."""

    form = "albef"

    def rows_of(self, file: pathlib.Path) -> list[Captioned]:
        """See `read`."""
        return read(file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        return {"id": row.id, "image": self._images.find(row.image), "text": list(row.captions)}

    def place(self, index: int) -> str:
        """The file and the row."""
        return f"{self._file}, row {index}"


def read(file: pathlib.Path) -> list[Captioned]:
    """The rows, in the order of the file.

    Raises:
        WrongFile: another layout.
    """
    rows = []
    for number, record in enumerate(official.array(official.load_json(file), file)):
        where = f"{file}, row {number}"
        captions = official.texts(official.field(record, "caption", (str, list), where), where)
        image = official.field(record, "image", str, where)
        rows.append(Captioned(record.get("image_id", number), image, captions))
    return rows
