"""Predictions in files: one JSON line for each example, or as a task's server takes them.

    {"id": 1000, "prediction": "yes"}                    one line of .jsonl, for every task
    [{"question_id": 1000, "answer": "yes"}]             VQA's results
    [{"image_id": 7, "caption": "a dog"}]                COCO captions' results
    dev-850-0-1,True                                     a line of NLVR2's CSV
    {"sent_id": 3, "box": [10, 5, 20, 10]}               a line of RefCOCO's .jsonl

They are written before anything is scored, and scoring reads them back: a score can be taken again.
"""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from unified_fm import choices
from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.files import write_whole

Found = dict[str, Any]  # {example's id as a string: prediction}


def write(path: str | os.PathLike, rows: Iterable[tuple[Any, Any]]) -> None:
    """Writes (id, prediction) of each example as a JSON line; the file appears whole."""
    lines = (json.dumps({"id": i, "prediction": p}, ensure_ascii=False) for i, p in rows)
    write_whole(path, "".join(f"{line}\n" for line in lines))


def write_array(path: str | os.PathLike, rows: Iterable[tuple[Any, Any]], key: str, of: str):
    """Writes the array that VQA ("question_id", "answer") and COCO ("image_id", "caption") take."""
    write_whole(path, json.dumps([{key: i, of: p} for i, p in rows], ensure_ascii=False))


def write_csv(path: str | os.PathLike, rows: Iterable[tuple[str, str]]) -> None:
    """Writes NLVR2's `identifier,prediction`, without a header."""
    write_whole(path, "".join(f"{identifier},{said}\n" for identifier, said in rows))


def read(
    path: pathlib.Path,
    *,
    keys: Sequence[str] = ("id",),
    of: Sequence[str] = ("prediction",),
) -> Found:
    """Reads predictions as JSON lines, as an array, or as CSV (which has neither name).

    Args:
        path: by its ending `.csv`, or JSON.
        keys: names of the id; the first that is there counts.
        of: names of the prediction, alike.

    Raises:
        WrongFile: another layout, a name missing, or an example twice; with the line.
    """
    official.refuse_pickle(path, "the predictions as JSON lines")
    if path.suffix == ".csv":
        return _csv(path)
    if official.is_lines(path):
        rows = [(f"{path}, line {line}", row) for line, row in official.load_lines(path)]
    else:
        array = official.array(official.load_json(path), path)
        rows = [(f"{path}, entry {number}", row) for number, row in enumerate(array)]
    found: Found = {}
    for where, row in rows:
        _add(found, _field(row, keys, where), _field(row, of, where), where)
    return found


def in_order(found: Mapping[str, Any], ids: Sequence[Any], path: Any, *, skipped=()) -> list[Any]:
    """The predictions of these examples, one each, in their order; ids compare as strings.

    Args:
        found: predictions by id.
        ids: of the examples that are scored.
        path: of the predictions, for messages.
        skipped: ids of examples that are not scored, and may have a prediction all the same.

    Raises:
        WrongFile: an example without a prediction, or a prediction of no example.
    """
    wanted = [str(i) for i in ids]
    if missing := [i for i in wanted if i not in found]:
        raise WrongFile(
            f"{path} has no prediction for {len(missing):,} of {len(wanted):,} examples; the first:"
            f" {', '.join(missing[:3])}. A part would be another number, so none is given"
        )
    known = {*wanted, *map(str, skipped)}
    if others := [i for i in found if i not in known]:
        hint = choices.nearest(others[0], wanted)
        near = f" (the nearest is {hint})" if hint else ""
        raise WrongFile(
            f"{path} has {len(others):,} predictions for no example of the truth; the first:"
            f" {others[0]}{near}. Is it of another split?"
        )
    return [found[i] for i in wanted]


def checked(rows: Iterable[Any], right: Callable[[Any], bool], what: str, path: Any) -> list[Any]:
    """The predictions, unless one is not `what`.

    Raises:
        WrongFile: with the first that is not, and its number.
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        if not right(row):
            raise WrongFile(
                f"{path}: prediction {number} is {official.shown(row)}; possible: {what}"
            )
    return rows


def _csv(path: pathlib.Path) -> Found:
    found: Found = {}
    lines = official.content(path).splitlines()
    for number, line in enumerate(lines, start=1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip() or (number == 1 and fields == ["identifier", "prediction"]):
            continue
        if len(fields) != 2:
            raise WrongFile(f"{path}, line {number}: {line!r} is not identifier,prediction")
        _add(found, fields[0], fields[1], f"{path}, line {number}")
    return found


def _add(found: Found, key: Any, prediction: Any, where: str) -> None:
    if str(key) in found:
        raise WrongFile(f"{where} is a second prediction for {key}")
    found[str(key)] = prediction


def _field(row: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise WrongFile(f"{where} has no {' or '.join(names)}; {choices.possible(names[-1], row)}")
