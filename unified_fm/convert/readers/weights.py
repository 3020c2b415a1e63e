"""Opens whatever holds weights: one file of any kind, or a Hugging Face folder."""

import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers.lazy import Derived
from unified_fm.convert.readers.npz_file import open_npz
from unified_fm.convert.readers.safetensors_file import open_safetensors
from unified_fm.convert.readers.torch_file import open_torch

# In a folder the first of these that exists is read.
_NAMES = ("model.safetensors", "pytorch_model.bin")
_READERS = {
    ".safetensors": open_safetensors,
    ".npz": open_npz,
    **dict.fromkeys((".bin", ".pt", ".pth", ".th"), open_torch),
}
_MAX_JSON = 2**24
_FILE_NAME = re.compile(r"[A-Za-z0-9_@+=,() -][A-Za-z0-9_.@+=,() -]{0,199}")


def open_weights(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """Opens a file by its ending, or a folder with `model.safetensors` or `pytorch_model.bin`.

    Folders may be sharded (`*.index.json`). Arrays are read one at a time, when asked for.

    Raises:
        CheckpointFormatError: damaged, hostile, or no file of a known kind.
        FileNotFoundError: there is nothing at `path`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _open_folder(path)
    return _open_file(path)


def _open_file(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder of weights: {os.fspath(path)!r}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CheckpointFormatError(
            f"{path.name}: unknown ending {path.suffix!r}; possible: {', '.join(_READERS)}"
        )
    try:
        return reader(path)
    except CheckpointFormatError as error:
        raise CheckpointFormatError(f"{path.name}: {error}") from error


def read_config(path: str | os.PathLike, name: str = "config.json") -> dict:
    """The `config.json` of a folder or beside a file, or another such object; {} without one."""
    path = pathlib.Path(path)
    file = (path if path.is_dir() else path.parent) / name
    return _read_json(file) if file.is_file() else {}


def _open_folder(folder: pathlib.Path) -> Mapping[str, np.ndarray]:
    for name in _NAMES:
        if (folder / name).is_file():
            return _open_file(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _open_shards(folder, f"{name}.index.json")
    raise CheckpointFormatError(
        f"{folder.name} holds no weights: expected one of {', '.join(_NAMES)} or their index files"
    )


def _open_shards(folder: pathlib.Path, index: str) -> Mapping[str, np.ndarray]:
    names = _read_json(folder / index).get("weight_map")
    if type(names) is not dict or not all(type(file) is str for file in names.values()):
        raise CheckpointFormatError(f"{index} has no `weight_map` of names to files")
    files = {file: _open_shard(folder, index, file) for file in sorted(set(names.values()))}
    for name, file in names.items():
        if name not in files[file]:
            raise CheckpointFormatError(f"{index} promises {name[:80]!r} in {file}: not there")
    return Derived({n: functools.partial(files[f].__getitem__, n) for n, f in names.items()})


def _open_shard(folder: pathlib.Path, index: str, file: str) -> Mapping[str, np.ndarray]:
    """One file of weights in the folder itself: no path, no folder, no other index."""
    if not _FILE_NAME.fullmatch(file) or ".." in file:
        raise CheckpointFormatError(
            f"{index} points to {file[:80]!r}: no name of a file in its folder"
        )
    try:
        return _open_file(folder / file)
    except OSError as error:
        raise CheckpointFormatError(f"{index} points to {file!r}, which cannot be read") from error


def _read_json(file: pathlib.Path) -> dict:
    if file.stat().st_size > _MAX_JSON:
        raise CheckpointFormatError(f"{file.name} is larger than {_MAX_JSON} bytes")
    return parse_object(file.name, file.read_bytes())


def parse_object(name: str, text: bytes) -> dict:
    """The object that a JSON file holds; `name` is the file's, for messages.

    Raises:
        CheckpointFormatError: it is no JSON, or no object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{name} is not JSON: {error}") from error
    if type(content) is not dict:
        raise CheckpointFormatError(f"{name} is not a JSON object")
    return content
