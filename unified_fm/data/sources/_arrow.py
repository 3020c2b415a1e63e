"""Rows of Arrow tables as examples: what `parquet:` and `hf:` have in common."""

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm.data.sources import _columns

_SEQUENCES = ("Sequence", "List", "LargeList")


class Features(NamedTuple):
    """What `datasets` says of the columns of a table.

    Attributes:
        guesses: {field: column}: the only image, the only class.
        class_names: {column: its classes}.
        boxed: {column: classes of its boxes}, of columns of objects with boxes.
    """

    guesses: Mapping[str, str]
    class_names: Mapping[str, list[str]]
    boxed: Mapping[str, list[str]]


def modules(form: str) -> Any:
    """PyArrow.

    Raises:
        ModuleNotFoundError: it is not installed; the message has the command.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{form}: needs PyArrow, which is not installed: pip install 'unified_fm[parquet]'"
        ) from error


def features_of(schema: Any) -> Any:
    """The features that `datasets` has written into a schema's metadata; {} if there are none."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"] or {}
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}


def read_features(features: Any) -> Features:
    """Takes apart the features of `dataset_info.json` or of a schema."""
    found = {name: _inner(each) for name, each in _items(features)}
    pictures = [name for name, each in found.items() if each.get("_type") == "Image"]
    classes = {name: names for name, each in found.items() if (names := _classes(each))}
    guesses = {}
    if len(pictures) == 1:
        guesses["image"] = pictures[0]
    if len(classes) == 1:
        guesses["label"] = next(iter(classes))
    boxed = {}
    for name, each in found.items():
        if "bbox" in each:
            for key in ("category", "label"):
                if names := _classes(_inner(each.get(key))):
                    boxed[name] = names
    return Features(guesses, classes, boxed)


class Rows:
    """What makes examples of the rows of a table.

    Attributes:
        class_names: of its labels; None if it says none.
    """

    def __init__(self, names: Sequence[str], features: Any, options: Mapping[str, str], where: str):
        """Finds our fields.

        Args:
            names: of the columns.
            features: what `datasets` says of them, or {}.
            options, where: as in `_columns.find`, which says what is refused.
        """
        told = read_features(features)
        self._columns = _columns.find(names, options, where, told.guesses, told.class_names)
        self._boxed = told.boxed
        self.class_names = self._columns.class_names

    def example(self, row: dict[str, Any], root: Any, index: int) -> dict[str, Any]:
        """A row as an example; objects with boxes become `regions`.

        Raises:
            Skip: as `Columns.example_of`.
        """
        known = self._columns.names
        for name in known.get("label", ()):
            if row[name] == -1 and self.class_names:  # what `datasets` writes for "not known"
                del row[name]
        for name, classes in self._boxed.items():
            if "regions" not in known and (found := row.pop(name)) is not None:
                row["regions"] = _regions(found, classes)
        return self._columns.example_of(row, root, index)


def _regions(found: Any, names: list[str]) -> list[dict[str, Any]]:
    """From {"bbox": [...], "category": [...]}, or a list of such objects."""
    if isinstance(found, Mapping):
        length = len(found["bbox"])
        lists = {
            key: value
            for key, value in found.items()
            if isinstance(value, list) and len(value) == length
        }
        found = [{key: value[k] for key, value in lists.items()} for k in range(length)]
    regions = []
    for each in found:
        rest = {k: v for k, v in each.items() if k not in ("bbox", "category", "label")}
        number = each.get("category", each.get("label"))
        known = isinstance(number, int) and 0 <= number < len(names)
        regions.append({**rest, "box": each["bbox"], "text": names[number] if known else None})
    return regions


def _items(features: Any) -> list[tuple[str, Any]]:
    return list(features.items()) if isinstance(features, Mapping) else []


def _inner(feature: Any) -> Mapping[str, Any]:
    """A feature, or that of the elements of a list."""
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, Mapping) and feature.get("_type") in _SEQUENCES:
            feature = feature.get("feature")
        else:
            return feature if isinstance(feature, Mapping) else {}


def _classes(feature: Mapping[str, Any]) -> list[str]:
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return []
    return [str(name) for name in names]
