"""`folder:DIR[:SPLIT]`: images in class folders, or images beside `.txt` captions.

    DIR/cat/1.jpg  DIR/dog/7.png  ...      label = place of the folder among the sorted names
    DIR/1.jpg  DIR/1.txt  DIR/more/2.jpg   text = the lines of the .txt, one caption each
    DIR/train/...  DIR/val/...             splits of one of the two: folder:DIR:train

If any image has a `.txt` of the same name beside it, all are read as captioned images (one without
its `.txt` is skipped as having no text); else every folder directly below DIR is a class. Where all
folders below DIR that have images are called train, val, valid, validation, dev or test, they are
splits: one must be named, and all of them number the classes alike, also those that a split has no
image of (`folder:DIR/train` too). Files that are not images by their ending, and names that begin
with a dot, are ignored. `id` is the path below DIR.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from unified_fm import buckets
from unified_fm.data import fields, official
from unified_fm.data.sources import base

_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test")


class Source(base.Source):
    """Random access to the images of a folder; see the module for the format.

    Attributes:
        class_names: of class folders, by label; empty for captioned images.
    """

    def __init__(self, argument: str):
        """Lists the folder.

        Raises:
            FileNotFoundError: no such folder, or no image in it.
            ValueError: it has splits and none is named, or no such split.
        """
        directory, split = _parts(argument)
        self._root = buckets.path(directory)
        names, captions = _list(self._root, split)
        if not names:
            raise FileNotFoundError(
                f"folder:{argument}: no image below it; possible endings:"
                f" {', '.join(fields.IMAGE_ENDINGS)}"
            )
        _refuse_splits(directory, split, names)
        self._captions = captions
        self.class_names = []
        self._depth = 1 if split else 0  # the folder of the class, in the parts of a name
        if not captions:
            names = [name for name in names if len(pathlib.PurePath(name).parts) > 1 + self._depth]
            if not names:
                raise FileNotFoundError(
                    f"folder:{argument} has images but neither .txt captions nor class folders"
                )
            own = {self._class(name) for name in names}
            self.class_names = sorted(own | _classes_beside(self._root / split))
        self._labels = {name: label for label, name in enumerate(self.class_names)}
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._names[index]
        example: dict[str, Any] = {"image": os.fspath(self._root / name), "id": name}
        if self.class_names:
            example["label"] = self._labels[self._class(name)]
        elif caption := self._captions.get(os.path.splitext(name)[0]):
            raw = buckets.read(self._root / caption)
            lines = raw.decode("utf-8", errors="replace").splitlines()
            example["text"] = [line for line in lines if line.strip()]
        return example

    def _class(self, name: str) -> str:
        return pathlib.PurePath(name).parts[self._depth]


def _parts(argument: str) -> tuple[str, str]:
    """The folder and the split.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no such split in it.
    """
    if buckets.isdir(argument):
        return argument, ""
    directory, split = buckets.cut(argument)
    if not split or not buckets.isdir(directory):
        raise FileNotFoundError(f"folder:{argument}: no such folder{official.beside(argument)}")
    if not _folders(directory):
        raise official.WrongFile(
            f"folder:{argument}: a split is a folder, and there is none in {directory}; without it:"
            f" folder:{directory}"
        )
    if split not in _folders(directory):
        raise official.no_split(split, _folders(directory), f"folder:{directory}")
    return directory, split


def _refuse_splits(directory: str, split: str, names: Sequence[str]) -> None:
    """Refuses a folder of splits of which none is named. Raises official.WrongFile."""
    paths = [pathlib.PurePath(name).parts for name in names]
    tops = {parts[0] for parts in paths if len(parts) > 1}
    if split or not tops or not tops <= set(_SPLITS):
        return
    ways = " or ".join(f"folder:{directory}:{name}" for name in sorted(tops))
    raise official.WrongFile(
        f"folder:{directory}: {', '.join(sorted(tops))} are splits, not classes; say which: {ways}"
    )


def _classes_beside(folder: Any) -> set[str]:
    """The class folders of all splits, where this folder is one of several."""
    folder = buckets.path(buckets.absolute(folder))
    if folder.name not in _SPLITS:
        return set()
    splits = [name for name in _folders(folder.parent) if name in _SPLITS]
    if len(splits) < 2:
        return set()
    return {name for split in splits for name in _folders(folder.parent / split)}


def _folders(directory: str | os.PathLike) -> list[str]:
    return [name for name in buckets.names(directory)[1] if not name.startswith(".")]


def _list(root: Any, split: str) -> tuple[list[str], dict[str, str]]:
    """Names of the images, sorted, and captions by the name without its ending."""
    images, texts = [], {}
    for path in buckets.below(root / split):
        path = os.path.relpath(path, root)
        stem, ending = os.path.splitext(path)
        if ending.lower() in fields.IMAGE_ENDINGS:
            images.append(path)
        elif ending.lower() == ".txt":
            texts[stem] = path
    stems = {os.path.splitext(path)[0] for path in images}
    return sorted(images), {stem: path for stem, path in texts.items() if stem in stems}
