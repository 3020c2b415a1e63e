"""`visual_genome:FOLDER[@IMAGES]`: pictures with the regions and objects of Visual Genome.

    visual_genome:data/vg          visual_genome:data/vg@data/vg/images

FOLDER has Visual Genome's own files: `region_descriptions.json` (phrases), `attributes.json`
(objects with attributes) or else `objects.json`; one of them is enough. An example for each image,
in the order of the first file: `id`, `image`, and `regions`, of which each has `box`, `text` and,
where there are any, `attributes`. The text of an object is the list of its names. The phrases come
first. Images are `42.jpg` below IMAGES, else below FOLDER, there or in `VG_100K`, `VG_100K_2` or
`images`.

With COCO's boxes and captions these are what X-FM's regions are made of; `unified-fm data convert
--form=jsonl` writes them as the JSON lines that X-FM reads.
"""

import pathlib
from typing import Any, NamedTuple

from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import base
from unified_fm.data.sources.vqa import VG_FOLDERS

_PHRASES, _OBJECTS = "region_descriptions.json", ("attributes.json", "objects.json")


class Region(NamedTuple):
    """A box x, y, width, height in pixels, and what it shows."""

    box: tuple[float, float, float, float]
    texts: tuple[str, ...]
    attributes: tuple[str, ...] = ()


class Source(base.Source):
    """Random access to the images; see the module for the fields."""

    def __init__(self, argument: str):
        """Reads the files.

        Raises:
            ValueError: another layout.
            FileNotFoundError: no such folder, or none of the files in it.
        """
        folder = official.argument(argument, "visual_genome")
        self._folder = folder.file
        self._images = official.Images(folder.images, folder.file)
        self._regions = read(folder.file)
        self._ids = list(self._regions)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        key = self._ids[index]
        image = self._images.find(*(f"{folder}{key}.jpg" for folder in VG_FOLDERS))
        regions = [_plain(region) for region in self._regions[key]]
        return {"id": key, "image": image, "regions": regions}

    def place(self, index: int) -> str:
        """The folder and the image's id."""
        return f"{self._folder}, image {self._ids[index]}"


def read(folder: pathlib.Path) -> dict[int, list[Region]]:
    """{image id: its regions}, the phrases first.

    Raises:
        WrongFile: another layout.
        FileNotFoundError: none of the files is there.
    """
    objects = next((folder / name for name in _OBJECTS if (folder / name).is_file()), None)
    phrases = folder / _PHRASES if (folder / _PHRASES).is_file() else None
    if objects is None and phrases is None:
        raise FileNotFoundError(
            f"visual_genome:{folder}: none of {', '.join((_PHRASES, *_OBJECTS))} is there"
        )
    found: dict[int, list[Region]] = {}
    for file, field in ((phrases, "regions"), (objects, "attributes"), (objects, "objects")):
        if file is None or (file is objects and file.stem != field):
            continue
        rows = official.array(official.load_json(file, hook=_condensed), file)
        for number, row in enumerate(rows):
            where = f"{file}, row {number}"
            key = official.field(row, "id" if "id" in row else "image_id", int, where)
            regions = official.field(row, field, list, where)
            wrong = next((region for region in regions if not isinstance(region, Region)), None)
            if wrong is not None:
                raise WrongFile(
                    f"{where}: {official.shown(wrong)} has no x, y, width, height and phrase, nor"
                    " x, y, w, h and names"
                )
            found.setdefault(key, []).extend(regions)
    return found


def _condensed(record: dict[str, Any]) -> Any:
    """A region in place of its object: the objects of five millions would fill the memory."""
    wide, high = ("width", "height") if "phrase" in record else ("w", "h")
    texts = [record["phrase"]] if "phrase" in record else record.get("names")
    sides = [record.get(name) for name in ("x", "y", wide, high)]
    numbers = [side for side in sides if isinstance(side, int | float)]
    if not isinstance(texts, list) or len(numbers) != len(sides):
        return record
    attributes = record.get("attributes") or ()
    if not all(isinstance(text, str) for text in (*texts, *attributes)):
        return record
    x, y, width, height = numbers
    return Region((x, y, width, height), tuple(texts), tuple(attributes))


def _plain(region: Region) -> dict[str, Any]:
    box, texts = list(region.box), list(region.texts)
    found: dict[str, Any] = {"box": box, "text": texts[0] if len(texts) == 1 else texts}
    return found | ({"attributes": list(region.attributes)} if region.attributes else {})
