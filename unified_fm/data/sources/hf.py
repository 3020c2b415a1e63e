"""`hf:DIR[:SPLIT]`: what `datasets` has written by `save_to_disk`, read without `datasets`.

    hf:my/pets:train                    of a DatasetDict, by split
    hf:my/pets_train                    of a Dataset
    hf:my/cifar:test?label=fine_label

A set of the Hub comes to a folder where there is a network:
`datasets.load_dataset(NAME).save_to_disk(DIR)`; nothing is downloaded here. Columns are found as of
`csv:`, and by the set's features: its only image, its only class, whose names are the class names,
and objects with boxes, which become `regions` (say `box_format`, for sets differ in it).
`?text=COLUMN&image=COLUMN` says it otherwise. All others are passed on under their names.

The Arrow files are mapped into memory and read where a row lies; opening looks through their
headers. Rows are decoded when they are wanted.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import buckets
from unified_fm.data import official, shards
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _arguments, _arrow, _columns, base
from unified_fm.data.sources._kept import Kept, Stamped

_OPEN = 4096  # Arrow files mapped at most, or an eighth of the limit of open files


class Source(base.Source):
    """Random access to the rows; see the module for the format."""

    def __init__(self, argument: str):
        """Opens the Arrow files.

        Raises:
            FileNotFoundError: no such folder or file.
            ValueError: not a saved dataset, no such split, columns of which none is known, or no
                file of it can be read.
            ModuleNotFoundError: PyArrow is not installed.
        """
        where = f"hf:{argument}"
        buckets.refuse(argument, f"hf:{argument} is mapped into memory, which")
        _arrow.modules("hf")
        parts = _arguments.parse(argument, "hf", _columns.OPTIONS)
        folder = _folder(parts.pattern, where)
        self._root = parts.root or folder
        opened: list[tuple[Stamped, Sequence[Any]]] = []
        bad = []
        for path in _arrow_files(folder, where):
            file = Stamped.of(path)
            try:
                batches = _BATCHES.get(file, lambda file=file: _map(file))
            except official.WrongFile as error:
                bad.append(("unreadable shard", str(error)))
            else:
                opened += [(file, batches)] if batches else []
        if not opened:
            raise official.WrongFile(f"{where} has no row" + (f": {bad[0][1]}" if bad else ""))
        schema = opened[0][1][0].schema
        for file, batches in opened:
            names = batches[0].schema.names
            _columns.same(schema.names, names, file.path, opened[0][0].path)
        self._batches = [(file, k) for file, batches in opened for k in range(len(batches))]
        self._sections = Sections(len(batch) for _, batches in opened for batch in batches)
        self.problems, self.lost = bad, round(len(bad) * len(self._sections) / len(opened))
        said = _json(folder / "dataset_info.json").get("features") or _arrow.features_of(schema)
        self._rows = _arrow.Rows(schema.names, said, parts.options, where)
        self.class_names = self._rows.class_names

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a row that cannot be read, or whose image path is refused."""
        which, row = self._sections.locate(index)
        file, number = self._batches[which]
        batches = _BATCHES.get(file, lambda: _map(file))
        try:
            found = batches[number].slice(row, 1)
            found.validate(full=True)  # a file may point outside itself
            found = found.to_pylist()[0]
        except (ValueError, OSError, IndexError) as error:
            raise Skip("damaged record", str(error)) from error
        return self._rows.example(found, self._root, index)

    def place(self, index: int) -> str:
        """The file, the record batch and the row in it."""
        which, row = self._sections.locate(index)
        file, number = self._batches[which]
        return f"{file.path}, row {row} of batch {number}"


def _folder(path: str, where: str) -> pathlib.Path:
    """The folder of a split."""
    folder, split = pathlib.Path(path), ""
    if not folder.is_dir():
        before, colon, split = path.rpartition(":")
        if not colon or not os.path.isdir(before):
            raise FileNotFoundError(f"{where}: there is no folder {path!r}{official.beside(path)}")
        folder = pathlib.Path(before)
    splits = _json(folder / "dataset_dict.json").get("splits")
    if splits is None:
        if split:
            raise official.WrongFile(
                f"{where}: {folder} is one dataset, without splits: hf:{folder}"
            )
        return folder
    splits = official.texts(splits, f"{folder / 'dataset_dict.json'}: splits")
    if split not in splits:
        if not split:
            ways = ", ".join(f"hf:{folder}:{name}" for name in splits)
            raise official.WrongFile(f"{where} has several splits; say which: {ways}")
        raise official.no_split(split, splits, folder)
    return _inside(folder, split, where)


def _arrow_files(folder: pathlib.Path, where: str) -> Sequence[pathlib.Path]:
    """The files that `state.json` names, in its order."""
    path = folder / "state.json"
    if not path.is_file():
        raise official.WrongFile(
            f"{where}: {folder} has no state.json, so it is no dataset that save_to_disk has"
            " written; write one with datasets.load_dataset(...).save_to_disk(DIR)"
        )
    state = _json(path)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise official.WrongFile(
            f"{where} has an order of its own beside its rows, as old versions of datasets wrote"
            " it: write it again with a newer one"
        )
    files = []
    for number, entry in enumerate(official.array(state, path, "_data_files")):
        name = official.field(entry, "filename", str, f"{path}: _data_files[{number}]")
        file = _inside(folder, name, where)
        if not file.is_file():
            raise FileNotFoundError(f"{where}: {path} names {name!r}, which is not there")
        files.append(file)
    return files


def _inside(folder: pathlib.Path, name: str, where: str) -> pathlib.Path:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise official.WrongFile(f"{where}: {name!r} is not the name of a file in {folder}")
    return folder / name


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    found = official.load_json(path)
    if not isinstance(found, Mapping):
        raise official.WrongFile(f"{path} is of type {type(found).__name__}; an object is needed")
    return found


def _map(file: Stamped) -> Sequence[Any]:
    """The record batches of a file, in place."""
    file.check()
    arrow = _arrow.modules("hf")
    try:
        with arrow.ipc.open_stream(arrow.memory_map(file.path)) as stream:
            return list(stream)
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
        raise official.WrongFile(f"{file.path} is no whole Arrow stream: {error}") from error


_BATCHES: Kept[Sequence[Any]] = Kept(lambda: max(1, min(_OPEN, shards.open_file_limit() // 8)))
