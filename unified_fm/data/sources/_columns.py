"""Tables: which column is which of our fields, and what the classes are called."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm import buckets, choices
from unified_fm.data import fields
from unified_fm.data.skips import Skip

# Our fields, and the names of columns that are taken for them: the first that is there counts.
_NAMES: Mapping[str, Sequence[str]] = {
    "id": fields.NAMES["id"],
    "image": (*fields.NAMES["image"], "img", "file_name", "filepath", "image_path"),
    "text": (*fields.NAMES["text"], "captions", "sentence"),
    "regions": fields.NAMES["regions"],
    "label": ("label",),
}
# What else the library knows, under these names only.
_OTHERS = ("images", "objects", "sentences", "question", "answers", "box")
OPTIONS = (*_NAMES, "classes", "missing")


class Columns(NamedTuple):
    """The columns of a table.

    Attributes:
        names: {field: (column,)} of those that are there.
        classes: {name: number} of `?classes=FILE`; empty where it is not given.
        class_names: of `label`, by number.
    """

    names: Mapping[str, Sequence[str]]
    classes: Mapping[str, int]
    class_names: Sequence[str]

    def example_of(self, row: Mapping[str, Any], root: Any, index: int) -> dict[str, Any]:
        """A row as an example, without the columns in which it has nothing.

        Raises:
            Skip: an image whose path is refused, or a label that is none of the classes.
        """
        there = {name: value for name, value in row.items() if value is not None}
        example = fields.example_of(there, root, index, self.names)
        label = example.get("label")
        if self.classes and isinstance(label, str):
            if label not in self.classes:
                raise Skip("label of no class", repr(label)[:80])
            example["label"] = self.classes[label]
        elif isinstance(label, float) and label.is_integer():
            example["label"] = int(label)  # pandas has 3.0 where another row has none
        return example


def find(
    there: Sequence[str],
    options: Mapping[str, str],
    where: str,
    guesses: Mapping[str, str] | None = None,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> Columns:
    """Finds our fields among the columns of a table.

    Args:
        there: the names of the columns.
        options: of the source: {field: column}, and `classes`, a file with a name in each line.
        where: the source, for messages.
        guesses: {field: column} where neither the user nor a name says which.
        class_names: {column: its classes}, where the table itself has them.

    Raises:
        ValueError: a column that is not there, or none that is known; with those there are.
        FileNotFoundError: there is no such file of classes.
    """
    names: dict[str, Sequence[str]] = {}
    for field, possible in _NAMES.items():
        if field in options:
            names[field] = (choices.check(f"{where}: the column {field}", options[field], there),)
        elif found := [name for name in possible if name in there]:
            names[field] = (found[0],)
        elif guesses and field in guesses:
            names[field] = (guesses[field],)
    if not names and not known(there):
        possible = ", ".join([*itertools.chain(*_NAMES.values()), *_OTHERS])
        raise ValueError(
            f"{where} has the columns {', '.join(map(repr, there))}; none is known"
            f" ({possible}). Say which is which: ?text=COLUMN&image=COLUMN"
        )
    given = _classes(options["classes"], where) if "classes" in options else []
    own = (class_names or {}).get(names["label"][0], ()) if "label" in names else ()
    return Columns(names, {name: k for k, name in enumerate(given)}, given or list(own))


def known(there: Sequence[str]) -> bool:
    """Whether any of these names of columns is known."""
    return not {*itertools.chain(*_NAMES.values()), *_OTHERS}.isdisjoint(there)


def same(first: Sequence[str], other: Collection[str], path: str, first_path: str) -> None:
    """Refuses a file whose columns are not those of the first. Raises ValueError."""
    if set(first) != set(other):
        missing, more = sorted(set(first) - set(other)), sorted(set(other) - set(first))
        raise ValueError(
            f"{path} has other columns than {first_path}: without {', '.join(missing) or 'none'},"
            f" with {', '.join(more) or 'none'} in addition"
        )


def _classes(path: str, where: str) -> list[str]:
    try:
        lines = buckets.read(path).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise FileNotFoundError(f"{where}: classes={path}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1}) if names else []
    if twice or not names:
        raise ValueError(f"{path} has {f'{twice[0]!r} twice' if twice else 'no name in it'}")
    return names
