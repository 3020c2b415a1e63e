"""`demo:KIND/SPLIT[?OPTION=NUMBER&...][@FOLDER]`: a kind of the demo corpus.

    demo:text/train            demo:scenes/val            demo:pairs/train@data/demo

| kind | splits | an example |
| --- | --- | --- |
| text | train, val | `text`: a passage of at most 200 characters |
| documents | train, val | `text`: a whole article lead or review |
| images | train, val | `image`: PNG of 64 px, no label |
| pairs | train, val | `image`: PNG of 64 px, `text`: the names of the emoji, a list |
| mnist | train, val, test | `image`: PNG of 28 px, `label` |
| scenes | train, val, test | `image` u8[48 48 3], `text`, `regions`, `objects` (`data/scenes.py`) |
| objects | train, val, test | the same with one large object |
| sentiment | train, val | `text`, `label` (0 negative, 1 positive) |
| ratings | test, all | `text`, `label` (test) or `rating` (all, -4 to 4) |
| topics | train, val, test | `text`, `label`, `title`, `description` |
| matching | train, val, test | `text`, `second`, `label` (0 different, 1 matching) |
| editorials | train, val, test | `text`, `label` (-4 to 4) |
| groups, noto | train, val, test | `image`: PNG of 64 px, `text`: names, `label`: group of emoji |
| fashion | train, val, test | `image`: PNG of 28 px, `label` |
| vqa, easy_vqa | train, val, test | as of `vqa:`, whose files they are |
| nlvr2 | train, val, test | as of `nlvr2:` |
| refcoco | train, val, testA, testB | as of `refcoco:` |
| captions | train, val, test | as of `karpathy:` |

Every example has `id`. Scenes and objects are composed as they are read; their options are
`length`, `seed`, and `size`, `min_side`, `max_side` in pixels. The folder is the one given, else
the environment variable UNIFIED_FM_DATA, else data/demo under the working directory.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_fm import choices
from unified_fm.data.sources import array_record, base, karpathy, nlvr2, refcoco, vqa
from unified_fm.demo import (
    composed_captions,
    composed_nlvr2,
    composed_refcoco,
    composed_vqa,
    corpus,
    scenes,
)

SPLITS = {
    "text": ("train", "val"),
    "documents": ("train", "val"),
    "images": ("train", "val"),
    "pairs": ("train", "val"),
    "mnist": ("train", "val", "test"),
    "scenes": scenes.SPLITS,
    "objects": scenes.SPLITS,
    "sentiment": ("train", "val"),
    "ratings": ("test", "all"),
    "topics": ("train", "val", "test"),
    "matching": ("train", "val", "test"),
    "editorials": ("train", "val", "test"),
    "groups": ("train", "val", "test"),
    "noto": ("train", "val", "test"),
    "fashion": ("train", "val", "test"),
    "vqa": tuple(composed_vqa.SPLITS),
    "easy_vqa": tuple(composed_vqa.SPLITS),
    "nlvr2": tuple(composed_nlvr2.SPLITS),
    "refcoco": tuple(composed_refcoco.SPLITS),
    "captions": tuple(composed_captions.SPLITS),
}
_LENGTHS = {"train": 1_000_000, "val": 1000, "test": 1000}
_LAYOUTS = {
    "scenes": scenes.Layout(),
    "objects": scenes.Layout(min_side=24, max_side=44, counts=(1,)),
}
_OPTIONS = ("length", "seed", "size", "min_side", "max_side")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """A source string, taken apart."""

    kind: str
    split: str
    options: dict[str, int]
    folder: Path

    @property
    def part(self) -> str:
        """The part of the corpus (`demo/recipes.py`) that it is read from."""
        return "objects" if self.kind in _LAYOUTS else self.kind


class Source(base.Source):
    """One kind and split of the prepared demo corpus.

    Attributes:
        names: names of the objects of scenes; empty elsewhere.
    """

    def __init__(self, arguments: str):
        """Opens `KIND/SPLIT[?OPTIONS][@FOLDER]`.

        Raises:
            ValueError: an unknown kind, split or option; the message has the nearest.
            FileNotFoundError: this part is not prepared; the message says how to do it.
        """
        address = parse(arguments)
        folder = address.folder / address.part
        stamp = corpus.read_stamp(folder)
        if stamp is None:
            raise FileNotFoundError(
                f"The demo corpus in {address.folder} has no part {address.part!r}: make it with "
                f"`unified-fm data demo {address.part} --to={address.folder}`."
            )
        self.class_names = tuple(stamp["facts"].get("labels", ()))
        self.names: Sequence[str] = ()
        self._files: base.Source | None = None
        if address.kind in _LAYOUTS:
            self._examples = _compose(address, folder)
            self.names = self._examples.names
            return
        if address.kind in _OFFICIAL:
            self._files = _OFFICIAL[address.kind](folder, address.split)
            self.class_names = self._files.class_names
        else:
            self._files = array_record.Source(str(folder / address.split))
            self.problems, self.lost = self._files.problems, self._files.lost
        self._examples = self._files

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._examples[index]

    def place(self, index: int) -> str:
        """The file and the place in it; "" for a scene that is composed as it is read."""
        return self._files.place(index) if self._files is not None else ""


def parse(arguments: str) -> Address:
    """Takes `KIND/SPLIT[?OPTIONS][@FOLDER]` apart (without the `demo:` in front).

    Raises:
        ValueError: as `Source`.
    """
    what, _, folder = arguments.partition("@")
    what, _, query = what.partition("?")
    kind, _, split = what.partition("/")
    _check(kind, SPLITS, f"kind in demo:{arguments}")
    _check(split, SPLITS[kind], f"split of {kind} in demo:{arguments}")
    options = {}
    for option in filter(None, query.split("&")):
        key, _, number = option.partition("=")
        _check(key, _OPTIONS if kind in _LAYOUTS else (), f"option of {kind} in demo:{arguments}")
        if not number.isdecimal():
            raise ValueError(f"demo:{arguments}: {key} is a whole number, not {number!r}")
        options[key] = int(number)
    return Address(kind=kind, split=split, options=options, folder=corpus.folder(folder))


def _vqa(folder: Path, split: str) -> base.Source:
    name = composed_vqa.SPLITS[split][0]
    questions, annotations = composed_vqa.official_names(name)
    return vqa.Source(f"{folder / questions}:{annotations}")


def _nlvr2(folder: Path, split: str) -> base.Source:
    return nlvr2.Source(str(folder / f"{composed_nlvr2.SPLITS[split][0]}.json"))


# Parts in the files of official data sets, which the readers of those data sets read.
_OFFICIAL: Mapping[str, Callable[[Path, str], base.Source]] = {
    "vqa": _vqa,
    "easy_vqa": _vqa,
    "nlvr2": _nlvr2,
    "refcoco": lambda folder, split: refcoco.Source(f"{folder / 'refcoco.jsonl'}:{split}"),
    "captions": lambda folder, split: karpathy.Source(f"{folder / 'dataset_demo.json'}:{split}"),
}


def _compose(address: Address, folder: Path) -> scenes.Scenes:
    options = dict(address.options)
    length = options.pop("length", _LENGTHS[address.split])
    seed = options.pop("seed", 0)
    names, drawings = scenes.load_objects(folder)
    return scenes.Scenes(
        names,
        drawings,
        split=address.split,
        length=length,
        layout=dataclasses.replace(_LAYOUTS[address.kind], **options),
        seed=seed,
    )


def _check(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"no {what} called {name!r}; {choices.possible(name, known)}")
