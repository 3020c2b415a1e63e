"""Features of pictures on disk, so that none is computed twice.

    FOLDER/KEY/00000000.npy     features f32[n D] of the records from 0 on
    FOLDER/KEY/00000000.json    their ids, labels and record numbers, and the hash of the .npy

KEY is a hash of the parameters, of how pictures are read, and of the data. A part of ten thousand
records is written as soon as it is computed, the .json last: what was stopped goes on with the next
part, and a part that is damaged is computed again.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified_fm.data.skips import Skip
from unified_fm.data.sources.base import Source
from unified_fm.files import write_whole

PART = 10_000  # records of a file
_LOOKED_AT = 64  # records whose content tells the data, where the picture is in the record
_FORM = 1  # raise it when the files mean something else than before
_PATH = str | os.PathLike
_log = logging.getLogger(__name__)

Encode = Callable[[list[Any]], Sequence[np.ndarray | None]]  # pictures -> features; None: unusable


@dataclasses.dataclass(frozen=True)
class Rows:
    """The usable records of a source, or some of them.

    Attributes:
        features: f32[N D].
        labels: [N], how the classes are called.
        ids: [N], of the records, as strings.
        numbers: i64[N], which record of the source each is.
        skipped: records that cannot be used.
    """

    features: np.ndarray
    labels: Sequence[str]
    ids: Sequence[str]
    numbers: np.ndarray
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: np.ndarray) -> "Rows":
        """Some of the rows, i[K] of 0..N-1."""
        return Rows(
            self.features[which],
            [self.labels[int(k)] for k in which],
            [self.ids[int(k)] for k in which],
            self.numbers[which],
        )

    def joined(self, other: "Rows") -> "Rows":
        """These and then those of another source."""
        return Rows(
            np.concatenate([self.features, other.features]),
            [*self.labels, *other.labels],
            [*self.ids, *other.ids],
            np.concatenate([self.numbers, other.numbers]),
            self.skipped + other.skipped,
        )


class Cache:
    """The features below a folder.

    Attributes:
        computed: pictures whose features were computed and not read.
    """

    def __init__(self, folder: Path, part: int = PART):
        self.folder, self.part, self.computed = Path(folder), part, 0

    def rows(
        self,
        key: str,
        source: Source,
        encode: Encode,
        *,
        at_once: int = 128,
        told: Callable[[int, int], None] = lambda done, of: None,
    ) -> Rows:
        """All usable records of a source with their features.

        Args:
            key: see `key_of`.
            source: that is read where features are not there.
            encode: what computes them.
            at_once: pictures that it is given.
            told: called with the records done and all of them.

        Raises:
            ValueError: no record can be used.
            OSError: features cannot be written.
        """
        parts = []
        for first in range(0, len(source), self.part):
            last = min(first + self.part, len(source))
            stem = self.folder / key / f"{first:08d}"
            found = _read(stem, last - first)
            if found is None:
                found = self._computed(source, range(first, last), encode, at_once, told)
                _write(stem, found)
            parts.append(found)
            told(last, len(source))
        usable = [part for part in parts if len(part)]
        if not usable:
            raise ValueError(f"none of {len(source):,} records has a picture and a label")
        return Rows(
            np.concatenate([part.features for part in usable]),
            [label for part in usable for label in part.labels],
            [one for part in usable for one in part.ids],
            np.concatenate([part.numbers for part in usable]),
            sum(part.skipped for part in parts),
        )

    def _computed(self, source, numbers, encode, at_once, told) -> Rows:
        features, labels, ids, used = [], [], [], []
        for start in range(numbers.start, numbers.stop, at_once):
            block = range(start, min(start + at_once, numbers.stop))
            found = [(n, example) for n in block if (example := _usable(source, n)) is not None]
            told(start, len(source))
            if not found:
                continue
            made = encode([example["image"] for _, example in found])
            self.computed += len(found)
            for (number, example), feature in zip(found, made, strict=True):
                if feature is not None:
                    features.append(np.asarray(feature, np.float32))
                    labels.append(label_of(example, source.class_names))
                    ids.append(str(example.get("id", number)))
                    used.append(number)
        empty = np.zeros((0, 0), np.float32)
        rows = np.stack(features) if features else empty
        return Rows(rows, labels, ids, np.array(used, np.int64), len(numbers) - len(used))


def key_of(about: Mapping[str, Any]) -> str:
    """The key of facts, as JSON has them."""
    text = json.dumps({"form": _FORM, **about}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def identity(source: Source) -> str:
    """A hash of the data of a source.

    Records that name a file count with their id, label and the file's name, size and time of
    change, all of them. Where the picture is in the record (`tfds:`, `array_record:`), the number
    of records and 64 of them count.
    """
    total = hashlib.sha256(repr((len(source), list(source.class_names))).encode())
    few = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int))
    named = [isinstance((_record(source, int(n)) or {}).get("image"), _PATH) for n in few]
    for number in range(len(source)) if all(named) else few:
        example = _record(source, int(number)) or {}
        fields = [example.get("id"), example.get("label")]
        image = example.get("image")
        if isinstance(image, _PATH):
            fields += _file(image)
        elif isinstance(image, np.ndarray):
            fields += [image.shape, hashlib.sha256(image.tobytes()).hexdigest()]
        elif image is not None:
            fields.append(hashlib.sha256(image).hexdigest())
        total.update(repr(fields).encode("utf-8", "surrogatepass"))
    return total.hexdigest()[:16]


def label_of(example: Mapping[str, Any], names: Sequence[str]) -> str:
    """How the class of an example is called: its name, else its number."""
    label = example["label"]
    return label if isinstance(label, str) else names[int(label)] if names else str(label)


def _usable(source: Source, number: int) -> Mapping[str, Any] | None:
    """A record with a picture and a class; None: it has none, or cannot be read."""
    example = _record(source, number)
    if example is None or example.get("image") is None:
        return None
    label = example.get("label")
    if isinstance(label, bool) or not isinstance(label, int | np.integer | str):
        return None
    return None if not isinstance(label, str) and label < 0 else example


def _record(source: Source, number: int) -> Mapping[str, Any] | None:
    try:
        return source[number]
    except Skip:
        return None


def _file(path: str | os.PathLike) -> list[Any]:
    name = os.path.basename(path)
    try:
        status = os.stat(path)
    except OSError:
        return [name, "missing"]
    return [name, status.st_size, status.st_mtime_ns]


def _write(stem: Path, rows: Rows) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    np.save(out, rows.features, allow_pickle=False)
    about = {
        "ids": list(rows.ids),
        "labels": list(rows.labels),
        "numbers": rows.numbers.tolist(),
        "skipped": rows.skipped,
        "sha256": hashlib.sha256(out.getbuffer()).hexdigest(),
    }
    write_whole(stem.with_suffix(".npy"), out.getvalue())
    write_whole(stem.with_suffix(".json"), json.dumps(about, ensure_ascii=False))


def _read(stem: Path, records: int) -> Rows | None:
    """A part of so many records; None: it is not there, or damaged."""
    try:
        about = json.loads(stem.with_suffix(".json").read_text("utf-8"))
        data = stem.with_suffix(".npy").read_bytes()
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise ValueError("its features are others than were written")
        features = np.load(io.BytesIO(data), allow_pickle=False)
        numbers = np.array(about["numbers"], np.int64)
        rows = Rows(features, about["labels"], about["ids"], numbers, about["skipped"])
        if len(rows) + rows.skipped != records or len(features) != len(rows):
            raise ValueError(f"it has {len(rows)} rows and {rows.skipped} skipped of {records}")
        return rows
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s is not used, and computed again: %s", stem, error)
        return None
