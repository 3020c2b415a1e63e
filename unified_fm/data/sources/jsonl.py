"""`jsonl:FILE`: one JSON object per line; FILE may be a folder (its *.jsonl) or a glob pattern.

    {"image": "dogs/1.jpg", "text": "a dog runs"}
    {"image": "<base64>", "text": ["a dog", "an animal"], "id": 17}
    {"image": "2.jpg", "text": "two dogs", "regions": [
        {"box": [10, 20, 50, 40], "text": "a dog", "attributes": ["brown"]}]}       (one line)
    {"text": "only text"}
    {"image": "3.jpg", "label": 4}
    {"images": ["4.jpg", "5.jpg"], "text": "both show dogs", "label": 1}

All other fields are passed on as they are (`objects`, `question`, `answers`: whatever a pipeline or
an evaluator of the user's reads), those of regions too.

A box is x, y, width, height in pixels of the image as a viewer shows it, after EXIF has turned it;
the regions stream's `box_format="xyxy"` or `"unit"` and `exif="stored"` read other boxes. An image
is base64 (also as a data URL) or a path below the file's folder; `jsonl:FILE@DIR` takes paths below
DIR instead. A path that leaves its folder is refused. Of an `image` that is a list the first is
read. The field names of the published X-FM files are read too: `binary` (image), `desc` or
`caption` (a string, a list, or a dict of languages), `elems` with `bb`, `caption` and `attributes`,
`image_id`.

The file is indexed once by line and never loaded; each example is read when it is wanted.
"""

import base64
import binascii
import glob
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm.data import images
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

_MAX_LINE = 200_000_000
_BLOCK = 1 << 24
# Our fields, and the names under which they stand in a file: the first that is there counts.
_NAMES = {
    "id": ("id", "image_id"),
    "image": ("image", "binary"),
    "text": ("text", "desc", "caption"),
    "regions": ("regions", "elems"),
}


class Source(base.Source):
    """Random access to the lines of one or several files; see the module for the format."""

    _handles: Sequence[int] = ()  # of the open files; none yet where opening failed

    def __init__(self, argument: str):
        """Indexes the files.

        Raises:
            FileNotFoundError: no such file, folder or match.
        """
        argument, root = _split_root(argument)
        self._files = _find(argument)
        self._roots = [root or path.parent for path in self._files]
        found = [_line_spans(path) for path in self._files]
        self._spans = [spans for spans, _ in found]  # i64[lines 2]: start, end
        self._blanks = [blanks for _, blanks in found]
        self._sections = Sections(map(len, self._spans))
        self._handles = [os.open(path, os.O_RDONLY) for path in self._files]

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a line that is not a JSON object, or whose image path is refused."""
        which, line = self._sections.locate(index)
        start, end = (int(x) for x in self._spans[which][line])
        if end - start > _MAX_LINE:
            raise Skip("oversized record", f"{end - start:,} bytes; at most {_MAX_LINE:,}")
        raw = os.pread(self._handles[which], end - start, start)
        try:
            record = json.loads(raw.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError) as error:
            raise Skip("invalid JSON", str(error)) from error
        if not isinstance(record, dict):
            raise Skip("invalid JSON", f"a line is an object; found {type(record).__name__}")
        return example_of(record, self._roots[which], index)

    def place(self, index: int) -> str:
        """The file and the line, counted from 1 with the blank ones."""
        which, line = self._sections.locate(index)
        blanks = self._blanks[which]
        before = np.searchsorted(blanks - np.arange(len(blanks)), line, side="right")
        return f"{self._files[which]}, line {line + before + 1}"

    def __del__(self):
        for handle in self._handles:
            os.close(handle)


def example_of(record: dict[str, Any], root: pathlib.Path, index: int) -> dict[str, Any]:
    """A record with our field names or the published ones, as an example; it keeps all others.

    Args:
        record: the object of a line.
        root: folder of its images.
        index: its id, where it has none.

    Raises:
        Skip: an image whose path is refused, or that is none.
    """
    rest, known = dict(record), {}
    for field, names in _NAMES.items():
        if name := next((name for name in names if name in record), None):
            known[field] = rest.pop(name)
    example = {**rest, "id": known.get("id", index)}
    image, text, regions = (known.get(field) for field in ("image", "text", "regions"))
    if isinstance(image, list) and image:
        image = image[0]
    if image is not None:
        example["image"] = _image(image, root)
    if "images" in rest:
        if not isinstance(rest["images"], list):
            raise Skip("images of a wrong type", f"{type(rest['images']).__name__}; a list is one")
        example["images"] = [_image(each, root) for each in rest["images"]]
    if isinstance(text, dict):
        text = [text["en"]] if "en" in text else list(text.values())
    if text is not None:
        example["text"] = text
    if isinstance(regions, list):
        example["regions"] = [_region(region) for region in regions]
    return example


def _region(region: Any) -> Any:
    if not isinstance(region, dict):
        return region  # the pipeline counts it
    rest = {name: value for name, value in region.items() if name not in ("bb", "caption")}
    return rest | {
        "box": region.get("box", region.get("bb")),
        "text": region.get("text", region.get("caption")),
        "attributes": region.get("attributes"),
    }


def _image(image: Any, root: pathlib.Path) -> bytes | str:
    """Bytes of a base64 string, or a path below `root`."""
    if not isinstance(image, str):
        raise Skip("image of a wrong type", f"{type(image).__name__}; a path or base64 is needed")
    images.refuse_url(image)
    if image.startswith("data:"):
        image = image.partition(",")[2]
    # Base64 has no dot; a path without one is taken as such if the file is there.
    if len(image) < 4096 and ("." in image or _exists(root / image)):
        folder, path = os.path.abspath(root), os.path.abspath(root / image)
        if os.path.commonpath([folder, path]) != folder:
            raise Skip("image path outside the data folder", image[:200])
        return path
    try:
        return base64.b64decode("".join(image.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Skip("image is neither a file nor base64", f"{image[:40]!r}: {error}") from error


def _exists(path: pathlib.Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a NUL byte
        return False


def _split_root(argument: str) -> tuple[str, pathlib.Path | None]:
    path, at, root = argument.rpartition("@")
    if at and not os.path.exists(argument):
        if not os.path.isdir(root):
            raise FileNotFoundError(f"jsonl:{argument}: {root!r} after the @ is not a folder")
        return path, pathlib.Path(root)
    return argument, None


def _find(argument: str) -> list[pathlib.Path]:
    if os.path.isdir(argument):
        found = sorted(glob.glob(os.path.join(glob.escape(argument), "*.jsonl")))
    else:
        found = [argument] if os.path.isfile(argument) else sorted(glob.glob(argument))
    if not found:
        raise FileNotFoundError(
            f"jsonl:{argument}: no such file, no *.jsonl in such a folder, and no match"
        )
    return [pathlib.Path(path) for path in found]


def _line_spans(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """i64[lines 2]: start and end of each line that is not blank; i64[blank lines]: which are."""
    breaks = []
    with open(path, "rb") as file:
        offset = 0
        while block := file.read(_BLOCK):
            found = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            breaks.append(found + offset)
            offset += len(block)
        ends = np.concatenate([*breaks, [offset]]).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1] + 1])
        spans = np.stack([starts, ends], axis=1)
        blank = []
        for start, end in spans[ends - starts < 16]:  # only short lines can be blank
            file.seek(start)
            blank.append(not file.read(end - start).strip())
        spans_kept = np.ones(len(spans), bool)
        spans_kept[np.flatnonzero(ends - starts < 16)] = ~np.array(blank, bool)
    return spans[spans_kept], np.flatnonzero(~spans_kept)
