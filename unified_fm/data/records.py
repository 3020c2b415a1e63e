"""Examples as bytes, and shards of them on disk.

One record is the magic `UFMR1\n`, the length of a JSON header (4 bytes, little-endian), the
header, and the raw bytes it points into. The header is the example, with `{"$bytes": [start, end]}`
in place of bytes and `{"$array": [dtype, shape, start, end]}` in place of arrays. Nothing in a
record is executed, and a damaged record is refused before anything of its stated size is made.
"""

import json
import math
import os
import pathlib
import re
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from unified_fm import buckets

_MAGIC = b"UFMR1\n"
_DTYPES = ("bool", "uint8", "uint16", "int8", "int16", "int32", "int64", "float16", "float32")
_SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})\.array_record$")


class CorruptRecord(ValueError):
    """Bytes that are not a whole record of this format."""


def encode(example: dict[str, Any]) -> bytes:
    """One example as bytes.

    Args:
        example: string keys; values are JSON values, bytes, arrays (bool, integers to 64 bits,
            float16, float32), and lists and dicts of these.

    Raises:
        TypeError: a value of another type; the message names its key.
        ValueError: NaN or infinity outside an array: JSON has none.
    """
    blobs: list[bytes] = []
    header = json.dumps(_pack(example, blobs, "example"), ensure_ascii=False, allow_nan=False)
    encoded = header.encode("utf-8", errors="surrogatepass")
    return b"".join([_MAGIC, struct.pack("<I", len(encoded)), encoded, *blobs])


def decode(record: bytes) -> dict[str, Any]:
    """The example that `encode` was given (tuples come back as lists, arrays read-only).

    Raises:
        CorruptRecord: not a record of this format, or cut, or pointing outside itself.
    """
    start = len(_MAGIC) + 4
    if record[: len(_MAGIC)] != _MAGIC or len(record) < start:
        raise CorruptRecord(f"a record begins with {_MAGIC!r}; found {record[: len(_MAGIC)]!r}")
    (length,) = struct.unpack("<I", record[len(_MAGIC) : start])
    if start + length > len(record):
        raise CorruptRecord(f"header of {length} bytes in a record of {len(record)}")
    try:
        header = record[start : start + length].decode("utf-8", "surrogatepass")
        blob = memoryview(record)[start + length :]
        example = json.loads(header, object_hook=lambda found: _unpack(found, blob))
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptRecord(f"damaged record: {error}") from error
    if not isinstance(example, dict):
        raise CorruptRecord(f"a record is a dict; found {type(example).__name__}")
    return example


def write_shards(
    stem: str | os.PathLike, examples: Iterable[dict[str, Any]], *, per_shard: int = 4096
) -> list[pathlib.Path]:
    """Writes examples to `STEM-00000-of-000NN.array_record`, to be read as `array_record:STEM`.

    The shards appear under their names only when all of them are complete; older shards of the
    same stem are replaced. No example at all writes nothing.

    Args:
        stem: folder and first part of the file names ("corpus/text-train").
        examples: as `encode` takes them.
        per_shard: examples in a shard.

    Returns:
        The paths of the shards, in order.
    """
    stem = pathlib.Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    temporary: list[pathlib.Path] = []
    writer: Any = None
    try:
        for index, example in enumerate(examples):
            if index % per_shard == 0:
                if writer is not None:
                    writer.close()
                name = f"{stem.name}.{os.getpid()}-{len(temporary):05d}.tmp"
                temporary.append(stem.with_name(name))
                writer = array_record_module.ArrayRecordWriter(str(temporary[-1]), "group_size:1")
            writer.write(encode(example))
        if writer is not None:
            writer.close()
    except BaseException:
        if writer is not None and writer.is_open():
            writer.close()
        for path in temporary:
            path.unlink(missing_ok=True)
        raise
    return _publish(stem, temporary)


def find_shards(pattern: str) -> tuple[list[str], list[str]]:
    """The shards of a stem, a glob pattern or a file.

    Returns:
        Paths in order, and names of the shards that the others' `-of-` number promises but that
        are missing.

    Raises:
        FileNotFoundError: nothing matches.
        OSError: the folder cannot be listed.
    """
    if buckets.isfile(pattern):
        return [pattern], []
    if any(sign in pattern for sign in "*?["):
        found = sorted(buckets.glob(pattern), key=_place)
    else:
        found = _shards_of(pattern)
    if not found:
        os.scandir(os.curdir).close()  # glob finds nothing where no file can be opened: say that
        raise FileNotFoundError(
            f"no shard matches {pattern!r}: give a file, a glob pattern, or the first part of names"
            " like PART-00000-of-00004.array_record"
        )
    present: dict[tuple[str, str], set[int]] = {}
    for path in found:
        if match := _SHARD.search(path):
            present.setdefault((path[: match.start()], match[2]), set()).add(int(match[1]))
    missing = [
        f"{stem}-{k:05d}-of-{count}.array_record"
        for (stem, count), numbers in present.items()
        if len(numbers) < int(count)
        for k in range(int(count))
        if k not in numbers
    ]
    return found, sorted(missing, key=_place)


def _shards_of(stem: str) -> list[str]:
    """Files STEM-NUMBER-of-COUNT.array_record, in order."""
    folder, first = os.path.split(stem)
    try:
        names, _ = buckets.names(folder or os.curdir)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = (
        os.path.join(folder, name)
        for name in names
        if name.startswith(first) and (match := _SHARD.search(name)) and match.start() == len(first)
    )
    return sorted(found, key=_place)


def _place(path: str) -> str:
    """The path with numbers of equal length, so that shard 100000 comes after 99999."""
    return _SHARD.sub(lambda m: f"-{int(m[1]):012d}-of-{int(m[2]):012d}.array_record", path)


def _publish(stem: pathlib.Path, temporary: list[pathlib.Path]) -> list[pathlib.Path]:
    count = len(temporary)
    paths = [
        stem.with_name(f"{stem.name}-{k:05d}-of-{count:05d}.array_record") for k in range(count)
    ]
    older = map(pathlib.Path, _shards_of(str(stem)))
    for path in set(older) - set(paths) if paths else ():
        path.unlink()
    for source, path in zip(temporary, paths, strict=True):
        os.replace(source, path)
    return paths


def _pack(value: Any, blobs: list[bytes], where: str) -> Any:
    """`value` with bytes and arrays moved to `blobs`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    start = sum(map(len, blobs))
    if isinstance(value, bytes | bytearray):
        blobs.append(bytes(value))
        return {"$bytes": [start, start + len(value)]}
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _DTYPES:
            raise TypeError(f"{where}: dtype {value.dtype}; possible: {', '.join(_DTYPES)}")
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        blobs.append(little.tobytes())
        return {"$array": [value.dtype.name, list(value.shape), start, start + little.nbytes]}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise TypeError(f"{where}: key {key!r}; a key is a string that has no $ in front")
        return {key: _pack(item, blobs, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, blobs, f"{where}[{k}]") for k, item in enumerate(value)]
    raise TypeError(f"{where} is of type {type(value).__name__}; possible: JSON, bytes, arrays")


def _unpack(value: dict[str, Any], blob: memoryview) -> Any:
    """What an object of the header stands for; those inside it have been replaced already."""
    if "$bytes" in value:
        return bytes(_part(blob, *value["$bytes"]))
    if "$array" in value:
        name, shape, start, end = value["$array"]
        if name not in _DTYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"array of dtype {name!r} and shape {shape!r}")
        dtype = np.dtype(name).newbyteorder("<")
        part = _part(blob, start, end)
        if math.prod(shape) * dtype.itemsize != len(part):
            raise ValueError(f"array of shape {shape} and {name} in {len(part)} bytes")
        return np.frombuffer(part, dtype).reshape(shape)
    return value


def _part(blob: memoryview, start: int, end: int) -> memoryview:
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= len(blob)):
        raise ValueError(f"bytes {start!r} to {end!r} of {len(blob)}")
    return blob[start:end]
