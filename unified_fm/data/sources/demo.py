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

Every example has `id`. Scenes and objects are composed as they are read; their options are
`length`, `seed`, and `size`, `min_side`, `max_side` in pixels. The folder is the one given, else
the environment variable UNIFIED_FM_DATA, else data/demo under the working directory.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unified_fm import choices
from unified_fm.data.sources import array_record, base
from unified_fm.demo import corpus, scenes

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
        self._shards: base.Source | None = None
        if address.kind in _LAYOUTS:
            self._examples = _compose(address, folder)
            self.names = self._examples.names
        else:
            self._examples = self._shards = array_record.Source(str(folder / address.split))
            self.problems, self.lost = self._shards.problems, self._shards.lost

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._examples[index]

    def place(self, index: int) -> str:
        """The shard and the place in it; "" for a composed scene."""
        return self._shards.place(index) if self._shards is not None else ""


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
