"""Trivial baselines as cells: of the same examples as the model, and kept in the same store."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data.glue_files import TASKS
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source
from unified_fm.data.sources import base as sources
from unified_fm.data.sources.nlvr2 import LABELS
from unified_fm.scoreboard import lines
from unified_fm.scoreboard.cell import Cell, Finished, Hashes
from unified_fm.tasks._baselines.base import Example
from unified_fm.tasks._baselines.table import BASELINES, Named
from unified_fm.tasks._scoring import lines as of_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The examples of a task.

    Attributes:
        train, test: as their sources give them, without those that cannot be read.
        class_names: of `label` in training; empty where there are none.
        test_names: of `label` in the test, which another folder of classes may number otherwise.
    """

    train: Sequence[Example]
    test: Sequence[Example]
    class_names: Sequence[str] = ()
    test_names: Sequence[str] = ()


def load(train: str, test: str) -> Data:
    """Reads both sources whole: for demo data and the small sets of GLUE."""
    opened = open_source(train), open_source(test)
    return Data(
        train=_readable(opened[0]),
        test=_readable(opened[1]),
        class_names=tuple(opened[0].class_names),
        test_names=tuple(opened[1].class_names),
    )


def predict(cell: Cell, hashes: Hashes, kind: str, baselines: str, data: Data) -> Finished:
    """Computes the baseline that the cell names.

    Args:
        cell: of the arm "trivial"; its config is the baseline's title.
        hashes: of the data; the config's is that of the title.
        kind: of the lines (`lines.KINDS`).
        baselines: kind of task in `table.BASELINES`.
        data: the task's examples.

    Raises:
        ValueError: there is no such baseline.
        NotInstalled: it needs a package that is not there.
    """
    known = {each.title: each for each in named(baselines)}
    choices.check(f"baseline of {baselines}", cell.config, known)
    started = time.monotonic()
    predictions = known[cell.config].predict(data.train, data.test)
    return Finished(
        cell=cell,
        hashes=hashes,
        lines=as_lines(kind, predictions, data),
        seconds=time.monotonic() - started,
    )


def named(baselines: str) -> tuple[Named, ...]:
    """The baselines of a kind of task."""
    return BASELINES[choices.check("kind of task", baselines, BASELINES)]


def as_lines(kind: str, predictions: Any, data: Data) -> list[dict[str, Any]]:
    """Predictions of the test examples in the form that evaluators of that kind write."""
    if kind == "retrieval":
        ids, captions = [e["id"] for e in data.test], [len(e["text"]) for e in data.test]
        return lines.rankings_of(np.asarray(predictions), ids, captions)
    learnt = data.class_names or data.test_names
    true = data.test_names or data.class_names
    words = TASKS[kind.removeprefix("glue ")].words if kind.startswith("glue ") else ()
    found = []
    for example, said in zip(data.test, predictions, strict=True):
        line: dict[str, Any] = {"id": example["id"], "prediction": said}
        if kind == "vqa":
            line["truth"] = example["answers"]
            line |= {key: example[key] for key in ("answer_type",) if key in example}
            line |= of_lines.image_of(example)
        elif kind == "nlvr2":
            line["truth"] = LABELS[example["label"]]
        elif kind == "refcoco":
            line["truth"] = example["box"]
            line |= {key: example[key] for key in ("size", "split") if key in example}
            line |= of_lines.image_of(example)
        elif kind == "captions":
            line["truth"] = example["text"]
        elif words:
            line |= {"prediction": words[said], "truth": words[example["label"]]}
        elif kind == "classification" and true:
            line |= {"prediction": learnt[said], "truth": true[example["label"]]}
        else:
            line["truth"] = example["label"]
        found.append(line)
    return found


def _readable(source: sources.Source) -> list[Example]:
    found = []
    for index in range(len(source)):
        try:
            found.append(source[index])
        except Skip:  # as training and evaluation do; those count and tell them
            continue
    return found
