"""GLUE's TSV files: which columns, which labels, in which order, and their published sizes.

Tab separated without quoting (a lone `"` occurs in text), UTF-8, one row per line.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unified_fm import choices
from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.skips import Skip

# MRPC as Microsoft publishes it; its development set is told by a list of pairs of ids.
_MRPC_TRAIN, _MRPC_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
_MRPC_DEV = "mrpc_dev_ids.tsv"


class Row(NamedTuple):
    """A row: its text or two, and the label as the file has it; None in a test file."""

    texts: tuple[str, ...]
    label: str | None
    ids: tuple[str, ...] = ()  # of MRPC's pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One of GLUE's tasks.

    Attributes:
        name: TFDS's.
        folder: in the archive.
        texts: names of the texts in TFDS.
        columns: names of their columns; several where they differ by split.
        places: their columns by number in training and test files.
        label: name of the column, and its number; "" where there is none.
        classes: in TFDS's order; none for STS-B.
        words: how files and submissions spell the classes.
        files: names in submissions, by test split.
        sizes: published rows by split.
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    columns: tuple[str, ...]
    places: tuple[tuple[int, ...], tuple[int, ...]]
    label: tuple[str, int] | None
    classes: tuple[str, ...]
    words: tuple[str, ...]
    files: Mapping[str, str]
    sizes: Mapping[str, int]


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "neutral", "contradiction")
_TWO = ("entailment", "not_entailment")


def _sizes(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train": train, "dev": dev, "test": test}


_ALL = (
    Task(
        name="cola",
        folder="CoLA",
        texts=("sentence",),
        columns=("sentence",),
        places=((3,), (1,)),
        label=("label", 1),
        classes=("unacceptable", "acceptable"),
        words=("0", "1"),
        files={"test": "CoLA.tsv"},
        sizes=_sizes(8551, 1043, 1063),
    ),
    Task(
        name="sst2",
        folder="SST-2",
        texts=("sentence",),
        columns=("sentence",),
        places=((0,), (1,)),
        label=("label", 1),
        classes=("negative", "positive"),
        words=("0", "1"),
        files={"test": "SST-2.tsv"},
        sizes=_sizes(67349, 872, 1821),
    ),
    Task(
        name="mrpc",
        folder="MRPC",
        texts=_PAIR,
        columns=("#1 String", "#2 String"),
        places=((3, 4), (3, 4)),
        label=("Quality", 0),
        classes=("not_equivalent", "equivalent"),
        words=("0", "1"),
        files={"test": "MRPC.tsv"},
        sizes=_sizes(3668, 408, 1725),
    ),
    Task(
        name="qqp",
        folder="QQP",
        texts=("question1", "question2"),
        columns=("question1", "question2"),
        places=((3, 4), (1, 2)),
        label=("is_duplicate", 5),
        classes=("not_duplicate", "duplicate"),
        words=("0", "1"),
        files={"test": "QQP.tsv"},
        sizes=_sizes(363846, 40430, 390965),
    ),
    Task(
        name="stsb",
        folder="STS-B",
        texts=_PAIR,
        columns=_PAIR,
        places=((7, 8), (7, 8)),
        label=("score", -1),
        classes=(),
        words=(),
        files={"test": "STS-B.tsv"},
        sizes=_sizes(5749, 1500, 1379),
    ),
    Task(
        name="mnli",
        folder="MNLI",
        texts=("premise", "hypothesis"),
        columns=_PAIR,
        places=((8, 9), (8, 9)),
        label=("gold_label", -1),
        classes=_ENTAILMENT,
        words=_ENTAILMENT,
        files={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
        sizes={
            "train": 392702,
            "dev_matched": 9815,
            "dev_mismatched": 9832,
            "test_matched": 9796,
            "test_mismatched": 9847,
        },
    ),
    Task(
        name="qnli",
        folder="QNLI",
        texts=("question", "sentence"),
        columns=("question", "sentence"),
        places=((1, 2), (1, 2)),
        label=("label", 3),
        classes=_TWO,
        words=_TWO,
        files={"test": "QNLI.tsv"},
        sizes=_sizes(104743, 5463, 5463),
    ),
    Task(
        name="rte",
        folder="RTE",
        texts=_PAIR,
        columns=_PAIR,
        places=((1, 2), (1, 2)),
        label=("label", 3),
        classes=_TWO,
        words=_TWO,
        files={"test": "RTE.tsv"},
        sizes=_sizes(2490, 277, 3000),
    ),
    Task(
        name="wnli",
        folder="WNLI",
        texts=_PAIR,
        columns=_PAIR,
        places=((1, 2), (1, 2)),
        label=("label", 3),
        classes=("not_entailment", "entailment"),
        words=("0", "1"),
        files={"test": "WNLI.tsv"},
        sizes=_sizes(635, 71, 146),
    ),
    Task(
        name="ax",
        folder="AX",
        texts=("premise", "hypothesis"),
        columns=_PAIR,
        places=((1, 2), (1, 2)),
        label=None,
        classes=_ENTAILMENT,
        words=_ENTAILMENT,
        files={"test": "AX.tsv"},
        sizes={"test": 1104},
    ),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}


def task_of(folder: str | os.PathLike, name: str = "") -> Task:
    """The task of a folder ("data/glue/CoLA"), or the one that is named.

    Raises:
        ValueError: neither is one of GLUE's.
    """
    if name:
        return TASKS[choices.check("GLUE task", name, TASKS)]
    last = os.path.basename(os.path.abspath(folder))
    for task in _ALL:
        if last.lower() in (task.folder.lower(), task.name):
            return task
    folders = [task.folder for task in _ALL]
    if last.upper() == "SNLI":
        raise ValueError(f"{folder}: SNLI is no task of GLUE; possible: {', '.join(folders)}")
    raise ValueError(
        f"the folder {last!r} does not say which task it is; {choices.possible(last, folders)}"
        f" Or name it: glue:{folder}:SPLIT@cola"
    )


def split_of(task: Task, name: str) -> str:
    """The split by our name, "dev" for TFDS's "validation".

    Raises:
        ValueError: the task has none of that name.
    """
    found = name.replace("validation", "dev")
    if found not in task.sizes:
        raise ValueError(
            f"{task.folder} has no split {name!r}; {choices.possible(name, task.sizes)}"
        )
    return found


def read(task: Task, folder: pathlib.Path, split: str) -> list[Row | Skip]:
    """The rows of a split, unusable ones as the reason.

    Raises:
        FileNotFoundError: the folder has none of the layouts; the message lists what is needed.
        WrongFile: columns that do not fit, with both lists.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(folder)!r} of {task.folder}")
    file = folder / f"{split}.tsv"
    if not file.is_file() and task.name == "ax":
        file = next(iter(sorted(folder.glob("*.tsv"))), file)
    if file.is_file():
        return read_file(task, file, split)
    if task.name == "mrpc" and (folder / _MRPC_TRAIN).is_file():
        return _microsoft(task, folder, split)
    there = sorted(entry.name for entry in folder.iterdir())
    raise FileNotFoundError(
        f"{folder} has no {split}.tsv"
        + (f", and no {_MRPC_TRAIN} with {_MRPC_DEV}" if task.name == "mrpc" else "")
        + f"; it has {', '.join(there[:20]) or 'no files'}"
    )


def read_file(task: Task, file: pathlib.Path, split: str) -> list[Row | Skip]:
    """The rows of one file; arguments and errors as of `read`. A BOM is no character of it."""
    lines = _lines(file)
    if not lines:
        raise WrongFile(f"{file} is empty")
    test = split.startswith("test")
    first = lines[0].split("\t")
    layout = _layout(task, first, file, test=test)
    rows = lines[1:] if layout.header else lines
    return [_row(task, line, layout) for line in rows]


class _Layout(NamedTuple):
    """Where things stand in a row."""

    header: bool  # whether the first line is one
    texts: tuple[int, ...]
    label: int | None
    columns: int
    ids: tuple[int, ...] = ()


def _layout(task: Task, first: Sequence[str], file: pathlib.Path, *, test: bool) -> _Layout:
    """Finds the columns by the names in the first line, else by number."""
    names = [name.strip() for name in first]
    label = None if test else task.label
    wanted = [*task.columns, *([label[0]] if label else [])]
    if all(name in names for name in wanted):
        ids = tuple(names.index(name) for name in ("#1 ID", "#2 ID") if name in names)
        texts = tuple(names.index(name) for name in task.columns)
        return _Layout(True, texts, names.index(label[0]) if label else None, len(names), ids)
    places = task.places[test]
    at = None if label is None else label[1] % len(first) if label[1] < 0 else label[1]
    there = max(*places, at or 0) < len(first)
    # A first line whose label is none has names that nobody knows.
    if not there or (at is not None and not _label(task, first[at])):
        numbers = [*places, *([label[1]] if label else [])]
        raise WrongFile(
            f"{file}, line 1: the columns do not fit {task.folder}. By name: {wanted}; by number:"
            f" {numbers} of a first line without names; found {len(first)}: {official.shown(names)}"
        )
    # Names that nobody knows, over columns that fit, are a header all the same in a test file.
    header = test and first[0].strip().lower() in ("index", "id")
    return _Layout(header, places, at, len(first))


def _row(task: Task, line: str, layout: _Layout) -> Row | Skip:
    cells = line.split("\t")
    if len(cells) != layout.columns:
        return Skip("row of another number of columns", f"{len(cells)}, not {layout.columns}")
    label = None if layout.label is None else cells[layout.label].strip()
    if label is not None and not _label(task, label):
        if label == "-":
            return Skip("no majority label", "gold_label is '-'")
        possible = ", ".join(task.words) or "a number from 0 to 5"
        return Skip("unknown label", f"{official.shown(label)}; possible: {possible}")
    texts = tuple(cells[place] for place in layout.texts)
    return Row(texts, label, tuple(cells[place] for place in layout.ids))


def _label(task: Task, text: str) -> bool:
    if task.classes:
        return text.strip() in task.words
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _microsoft(task: Task, folder: pathlib.Path, split: str) -> list[Row | Skip]:
    """MRPC from the files that Microsoft publishes; its test file has labels."""
    if split == "test":
        if not (folder / _MRPC_TEST).is_file():
            raise FileNotFoundError(f"{folder} has neither test.tsv nor {_MRPC_TEST}")
        return read_file(task, folder / _MRPC_TEST, "labelled test")
    if not (folder / _MRPC_DEV).is_file():
        raise FileNotFoundError(f"{folder} has no {_MRPC_DEV}, which tells {_MRPC_TRAIN} apart")
    dev = {tuple(line.split("\t")[:2]) for line in _lines(folder / _MRPC_DEV)}
    rows = read_file(task, folder / _MRPC_TRAIN, "train")
    return [row for row in rows if isinstance(row, Skip) or (row.ids in dev) == (split == "dev")]


def _lines(file: pathlib.Path) -> list[str]:
    """Lines by LF alone: other breaks occur within text. Bytes that are no UTF-8 are replaced."""
    text = file.read_bytes().decode("utf-8-sig", errors="replace")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
