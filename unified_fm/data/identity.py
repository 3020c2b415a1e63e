"""What tells the data of a stream from other data: a few numbers that every process can compare."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_fm.data.skips import Skip
from unified_fm.data.sources.base import Source

_LOOKED_AT = 7  # records from the first to the last; all of them would be read for minutes


def of_streams(loaders: Mapping[str, Any]) -> dict[str, Any]:
    """{"stream text: records": 100, ...} of `Streams.loaders`: the same for the same data."""
    found = {}
    for name, loader in loaders.items():
        found[f"stream {name}: records"] = loader.records
        found[f"stream {name}: rows of a batch"] = loader.slots
        found[f"stream {name}: hash of some records"] = of_source(loader.source)
    return found


def of_source(source: Source) -> str:
    """A hash of some records of a source, as they are before any pipeline.

    Of a path only the name of the file counts: the folder may be mounted elsewhere.
    """
    total = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int)):
        try:
            example = source[int(index)]
        except Skip as skip:
            example = {"skipped": skip.reason}  # its detail may name a folder
        for key in sorted(example):
            total.update(f"{key}\0".encode() + bytes_of(key, example[key]) + b"\0")
    return total.hexdigest()[:12]


def bytes_of(key: str, value: Any) -> bytes:
    """What the value of a record's field is told by: the same on every machine.

    Of a path of an image only the name of the file counts: the folder may be mounted elsewhere.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    if key in ("image", "images") and isinstance(value, str | os.PathLike):
        return os.path.basename(value).encode()
    if isinstance(value, Mapping):
        return b"".join(f"{k}\0".encode() + bytes_of(str(k), value[k]) for k in sorted(value))
    if isinstance(value, list | tuple):
        return b"".join(bytes_of(key, inner) + b"\0" for inner in value)
    return str(value).encode("utf-8", "surrogatepass")
