"""Names of classes and templates for zero-shot classification: the user's, or clip-benchmark's.

    --prompts=FILE    {"pets": {"templates": ["a photo of a {}"], "classes": ["cat", "dog"]}}

`classes` is a list in the order of the set's labels, or {label: how it is called in a prompt}. A
set, or one of the two, that the file leaves out is looked for in the lists that the package
clip-benchmark brings along, if it is installed. Only these files are read; nothing is imported or
downloaded.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unified_fm import choices
from unified_fm.tasks.probe_sets import ProbeSet

PLAIN = ("a photo of a {}",)  # of sets that nobody has templates for
_PACKAGE = "clip_benchmark"
_FOLDER = "datasets"
_CLASSES, _TEMPLATES = "en_classnames.json", "en_zeroshot_classification_templates.json"
_INSTALL = "pip install --no-deps clip-benchmark==1.6.2"
_CATALOGUE = re.compile(r"^/[a-z]/")  # SUN397's "/a/abbey"
_HOLE = "{c}"  # of clip-benchmark, where ours have {}
_SHOWN = 3


class Prompts(NamedTuple):
    """What stands for the classes of a set.

    Attributes:
        labels: of the set, in its order.
        names: of each label, as a prompt has it.
        templates: with {} for the name.
        notes: where they are from, and what to look at.
    """

    labels: Sequence[str]
    names: Sequence[str]
    templates: Sequence[str]
    notes: Sequence[str]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The user's file.

    Raises:
        ValueError: no file of this form, with what was found.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--prompts={path}: {error}") from error
    form = '{"SET": {"templates": ["a photo of a {}"], "classes": [...]}}'
    if not isinstance(found, dict):
        raise ValueError(f"--prompts={path} is no object; needed: {form}")
    for name, entry in found.items():
        if not isinstance(entry, dict):
            raise ValueError(f"--prompts={path}: {name!r} is no object; needed: {form}")
        for key, value in entry.items():
            choices.check(f"--prompts={path}: a field of {name!r}", key, ("templates", "classes"))
            texts = list(value.values()) if isinstance(value, dict) else value
            right = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            if not right or not texts or (key == "templates" and isinstance(value, dict)):
                raise ValueError(f"--prompts={path}: {key} of {name!r} are not texts; {form}")
    return found


def of(row: ProbeSet, labels: Sequence[str], given: Mapping[str, Mapping[str, Any]]) -> Prompts:
    """The prompts of a set.

    Args:
        row: the set.
        labels: its classes, in their order.
        given: the user's file.

    Raises:
        ValueError: classes of another number, or of other labels.
    """
    own, notes = given.get(row.name, {}), []
    if "templates" in own:
        templates = list(own["templates"])
        notes.append(f"{len(templates)} templates of yours")
    else:
        templates, note = _templates(row)
        notes.append(note)
    if "classes" in own:
        names = _named(row.name, labels, own["classes"])
        notes.append("class names of yours")
    else:
        names, note = _names(row, labels)
        notes.append(note)
    return Prompts(list(labels), names, templates, notes)


def plain(label: str) -> str:
    """A label as words: "/a/apartment_building/outdoor" is "apartment building outdoor"."""
    return re.sub(r"[_/\s]+", " ", _CATALOGUE.sub("", label)).strip() or label


def _templates(row: ProbeSet) -> tuple[list[str], str]:
    listed = _listed(_TEMPLATES)
    if row.prompts and listed is None:
        note = f"the plain template {PLAIN[0]!r}: clip-benchmark is not installed ({_INSTALL})"
        return list(PLAIN), note
    if row.prompts and listed and row.prompts in listed:
        found = [template.replace(_HOLE, "{}") for template in listed[row.prompts]]
        return found, f"{len(found)} templates of clip-benchmark"
    return list(PLAIN), f"the plain template {PLAIN[0]!r}"


def _names(row: ProbeSet, labels: Sequence[str]) -> tuple[list[str], str]:
    own = [plain(label) for label in labels]
    listed = (_listed(_CLASSES) or {}).get(row.names, [])
    if len(listed) == len(labels):
        by_name = {_bare(name): name for name in listed}
        if {_bare(label) for label in labels} == {*by_name}:
            return [by_name[_bare(label)] for label in labels], "class names of clip-benchmark"
        # Nothing but the order tells which is which, so the first ones are shown.
        shown = [f"{label} is {name!r}" for label, name in zip(labels, listed, strict=True)]
        note = f"class names of clip-benchmark, by their order: {', '.join(shown[:_SHOWN])}, ..."
        return list(listed), f"{note} Give your own with --prompts where that is wrong"
    note = "class names of the data"
    if listed:
        note += f": clip-benchmark has {len(listed)}, the data {len(labels)}"
    if all(label.isdecimal() for label in labels):
        note += ", which are numbers: give names with --prompts=FILE"
    return own, note


def _named(name: str, labels: Sequence[str], given: Any) -> list[str]:
    if isinstance(given, Mapping):
        if missing := [label for label in labels if label not in given]:
            raise ValueError(
                choices.listed(f"--prompts: {name} has no name for {len(missing)}:", missing)
            )
        return [given[label] for label in labels]
    if len(given) != len(labels):
        raise ValueError(
            f"--prompts: {name} has {len(given)} classes; the data have {len(labels)}:"
            f" {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"
        )
    return list(given)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _listed(file: str) -> dict[str, list[str]] | None:
    """A list of clip-benchmark; None: it is not installed. Its code is not run."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _FOLDER / file
        if path.is_file():
            return json.loads(path.read_text("utf-8"))
    return None
