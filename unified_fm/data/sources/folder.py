"""`folder:DIR`: images in class folders, or images beside `.txt` captions.

    DIR/cat/1.jpg  DIR/dog/7.png  ...      label = place of the folder among the sorted names
    DIR/1.jpg  DIR/1.txt  DIR/more/2.jpg   text = the lines of the .txt, one caption each

If any image has a `.txt` of the same name beside it, all are read as captioned images (one without
its `.txt` is skipped as having no text); else every folder directly below DIR is a class. Files
that are not images by their ending, and names that begin with a dot, are ignored. `id` is the path
below DIR.
"""

import os
import pathlib
from typing import Any

from unified_fm.data.sources import base

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif")


class Source(base.Source):
    """Random access to the images of a folder; see the module for the format.

    Attributes:
        class_names: of class folders, by label; empty for captioned images.
    """

    def __init__(self, directory: str):
        """Lists the folder.

        Raises:
            FileNotFoundError: no such folder, or no image in it.
        """
        self._root = pathlib.Path(directory)
        if not self._root.is_dir():
            raise FileNotFoundError(f"folder:{directory}: no such folder")
        names, captions = _list(self._root)
        if not names:
            raise FileNotFoundError(
                f"folder:{directory}: no image below it; possible endings: {', '.join(_IMAGES)}"
            )
        self._captions = captions
        self.class_names = []
        if not captions:
            names = [name for name in names if len(pathlib.PurePath(name).parts) > 1]
            if not names:
                raise FileNotFoundError(
                    f"folder:{directory} has images but neither .txt captions nor class folders"
                )
            self.class_names = sorted({pathlib.PurePath(name).parts[0] for name in names})
        self._labels = {name: label for label, name in enumerate(self.class_names)}
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name = self._names[index]
        example: dict[str, Any] = {"image": str(self._root / name), "id": name}
        if self.class_names:
            example["label"] = self._labels[pathlib.PurePath(name).parts[0]]
        elif caption := self._captions.get(os.path.splitext(name)[0]):
            lines = (self._root / caption).read_text("utf-8", errors="replace").splitlines()
            example["text"] = [line for line in lines if line.strip()]
        return example


def _list(root: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Names of the images, sorted, and captions by the name without its ending."""
    images, texts = [], {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), root)
            stem, ending = os.path.splitext(path)
            if name.startswith("."):
                continue
            if ending.lower() in _IMAGES:
                images.append(path)
            elif ending.lower() == ".txt":
                texts[stem] = path
    stems = {os.path.splitext(path)[0] for path in images}
    return sorted(images), {stem: path for stem, path in texts.items() if stem in stems}
