"""`webdataset:PATTERN`: tar shards of samples, as img2dataset writes them; never unpacked.

    webdataset:cc3m/{00000..00331}.tar      000000012.jpg  000000012.txt  000000012.json
    webdataset:cc3m                         all *.tar of a folder
    webdataset:cc3m/*.tar?index=/scratch/indices

| member of a sample | field |
| --- | --- |
| .jpg .jpeg .png .webp .gif .bmp .tif .tiff .ppm .avif | `image`: the bytes; the first of several |
| .txt, .text, .caption | `text`: all of it, one caption |
| .json | its fields, named as in a line of `jsonl:`; what another member has counts more |
| .cls | `label`, a number |
| .KIND | bytes under the name KIND |

`id` is the one in the .json, else "SHARD/KEY". Members of a sample need not be neighbours. Names
that begin with a dot, or have no ending, are no samples.

Where samples lie is looked for once, and kept in `.webdataset_index` beside the shards, in
`?index=DIR`, or in the user's cache where nothing can be written beside them. A shard of another
size or content is looked through again; one that changes while a run goes on ends it. A compressed
shard (.tar.gz) is refused: it can only be read from its start. So is one with absolute paths, "..",
links, devices, sparse files or more than 500,000 members. One that is cut off gives its samples up
to there; it and one that is no archive are counted towards `max_skip`, and named. A shard that
braces name and that is not there is refused, unless `?missing=allow`.
"""

import json
import os
from typing import Any

from unified_fm import buckets
from unified_fm.data import fields, images
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _arguments, _tar, _tar_index, _tar_shards, base

_IMAGES = tuple(ending.removeprefix(".") for ending in fields.IMAGE_ENDINGS)
_TEXTS = ("txt", "text", "caption")
_GAP = 1 << 16  # bytes between two members that are read with them


class Source(base.Source):
    """Random access to the samples of all shards; see the module for the format."""

    def __init__(self, argument: str):
        """Finds the samples.

        Raises:
            FileNotFoundError: no shard matches, or one is missing and that is not allowed.
            ValueError: a compressed or hostile shard, or none of them has samples.
            OSError: a shard cannot be read.
        """
        parts = _arguments.parse(argument, "webdataset", ("index", "missing"))
        names = _arguments.find(parts, "webdataset", ".tar")
        self._shards, bad = _tar_shards.open_shards(names.found, parts.options.get("index", ""))
        if not self._shards:
            raise ValueError(
                f"webdataset:{argument}: none of {len(bad)} shards has samples, files KEY.KIND in a"
                f" tar archive: {bad[0][0]}: {bad[0][1]}"
            )
        self._sections = Sections(shard.samples for shard in self._shards)
        self.problems = [("missing shard", path) for path in names.missing]
        self.problems += [("unreadable shard", f"{path}: {why}") for path, why in bad]
        cut = [shard for shard in self._shards if shard.fault]
        self.problems += [("shard cut off", f"{each.file.path}: {each.fault}") for each in cut]
        whole = [shard.samples for shard in self._shards if not shard.fault]
        usual = sum(whole) / len(whole) if whole else max(each.samples for each in cut)
        self.lost = round(len(bad) * usual + sum(max(0.0, usual - each.samples) for each in cut))
        self._folder = _arguments.folder_of(parts.pattern)

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a sample that is too large, damaged, or whose JSON is none."""
        which, number = self._sections.locate(index)
        shard = self._shards[which]
        samples = _tar_shards.samples_of(shard)
        parts = _read(shard, samples, number)
        name = os.path.relpath(shard.file.path, self._folder).removesuffix(".tar")
        record = _json(parts.pop("json")) if "json" in parts else {}
        key = f"{name}/{samples.keys[number]}"
        pictures = {ending: parts.pop(ending) for ending in _IMAGES if ending in parts}
        if pictures:  # a picture that lies in the shard, whatever a field of the JSON says
            record = {k: v for k, v in record.items() if k not in fields.NAMES["image"]}
        root = buckets.path(os.path.dirname(shard.file.path) or os.curdir)
        example = fields.example_of(record, root, key)
        if pictures:
            example["image"], *_ = pictures.values()
        for ending, raw in parts.items():
            if ending in _TEXTS:
                example["text"] = raw.decode("utf-8", errors="replace").strip()
            elif ending == "cls":
                example["label"] = _number(raw)
            else:
                example[ending] = raw
        return example

    def place(self, index: int) -> str:
        """The shard and the key of the sample."""
        which, number = self._sections.locate(index)
        shard = self._shards[which]
        return f"{shard.file.path}, sample {_tar_shards.samples_of(shard).keys[number]}"


def _read(shard: _tar_shards.Shard, samples: _tar_index.Samples, number: int) -> dict[str, bytes]:
    """{ending: content} of a sample, in the order of the shard.

    Raises:
        Skip: it is too large, or the shard has no such member there.
    """
    rows = range(*samples.first[number : number + 2].tolist())
    spans = [(int(samples.offset[k]), int(samples.size[k])) for k in rows]
    if (total := sum(size for _, size in spans)) > images.MAX_BYTES:
        raise Skip("oversized record", f"{total:,} bytes; at most {images.MAX_BYTES:,}")
    start, end = spans[0][0] - _tar.BLOCK, max(offset + size for offset, size in spans)
    near = start <= min(offset for offset, _ in spans) and end - start <= total + _GAP
    whole = shard.file.read(start, end) if near else b""
    found = {}
    for k, (offset, size) in zip(rows, spans, strict=True):
        first = offset - _tar.BLOCK
        raw = whole[first - start :] if near else shard.file.read(first, offset + size)
        content = raw[_tar.BLOCK : _tar.BLOCK + size]
        if len(content) < size or not _tar.is_header(raw[: _tar.BLOCK], size):
            raise Skip("damaged record", f"no member of {size:,} bytes at byte {offset:,}")
        found[samples.endings[samples.ending[k]]] = content
    return found


def _json(raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise Skip("invalid JSON", str(error)) from error
    if not isinstance(record, dict):
        raise Skip("invalid JSON", f"an object is needed; found {type(record).__name__}")
    return record


def _number(raw: bytes) -> int | str:
    text = raw[:100].decode("utf-8", errors="replace").strip()
    return int(text) if text.isdecimal() else text
