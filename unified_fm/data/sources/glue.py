"""`glue:FOLDER:SPLIT`: a GLUE task as its TSV files have it.

    glue:data/glue/CoLA:train        glue:data/glue/MNLI:dev_matched        glue:data/MRPC:dev

| field | what |
| --- | --- |
| `id` | row of the file, from 0: the `index` of a submission |
| `sentences` | the text, or the two texts |
| `sentence`, `premise`, ... | the same under the names that TFDS has (`tfds:glue/NAME:SPLIT`) |
| `label` | number in `class_names`, whose order is TFDS's; STS-B: the score, 0 to 5 |
| `label_name` | as the file has it ("1", "entailment"); test splits have neither |

The folder's name says which task it is; `glue:FOLDER:SPLIT@cola` says it where it does not. Splits
are those of the files (`train`, `dev`, `test`, MNLI: `dev_matched`, ...); TFDS's names do too.
Columns are found by the names in the first line, else by number. MRPC may be GLUE's folder or
Microsoft's (`msr_paraphrase_train.txt` with `mrpc_dev_ids.tsv`). A row of the wrong number of
columns (QQP has some) and a label "-" are skipped and counted, and the rows behind keep their
number.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import buckets, choices
from unified_fm.data import glue_files
from unified_fm.data.glue_files import TASKS, Row, Task
from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

_log = logging.getLogger(__name__)


class Source(base.Source):
    """Random access to the rows of a task's split; see the module for the fields.

    Attributes:
        task: which one.
        class_names: of `label`, in TFDS's order; empty for STS-B.
    """

    def __init__(self, argument: str):
        """Reads the file.

        Raises:
            ValueError: an unknown task or split, or columns that do not fit.
            FileNotFoundError: no such folder or file.
        """
        what, _, name = argument.partition("@")
        folder, colon, split = what.rpartition(":")
        if not colon:
            raise ValueError(f"glue:{argument} is not of the form glue:FOLDER:SPLIT")
        self.task: Task = glue_files.task_of(folder, name)
        self.class_names: Sequence[str] = self.task.classes
        self._path = buckets.path(folder)
        self._split = glue_files.split_of(self.task, split)
        self._rows = glue_files.read(self.task, self._path, self._split)
        expected = self.task.sizes.get(self._split)
        if expected and expected != len(self._rows):
            _log.warning(
                "glue:%s has %d rows; the published file has %d",
                argument,
                len(self._rows),
                expected,
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a row of the wrong number of columns, or without a usable label."""
        row = self._rows[index]
        if isinstance(row, Skip):
            raise Skip(row.reason, row.detail)
        return _example(self.task, index, row)

    def place(self, index: int) -> str:
        """The folder, the split and the row."""
        return f"{self._path}, {self._split}, row {index}"


def texts_of(example: Mapping[str, Any], task: str) -> list[str]:
    """The text of an example, or its two: of this source, or of `tfds:glue/NAME:SPLIT`.

    Raises:
        Skip: there are none.
    """
    names = TASKS[choices.check("GLUE task", task, TASKS)].texts
    found = example.get("sentences") or [
        example.get(name, example.get("text") if name == "sentence" else None) for name in names
    ]
    if len(found) != len(names) or not all(isinstance(text, str) for text in found):
        raise Skip(f"not the texts of {task}", f"{', '.join(names)} are needed")
    return list(found)


def _example(task: Task, index: int, row: Row) -> dict[str, Any]:
    example: dict[str, Any] = {"id": index, "sentences": list(row.texts)}
    example |= dict(zip(task.texts, row.texts, strict=True))
    if row.label is not None:
        example["label_name"] = row.label
        scored = not task.classes
        example["label"] = float(row.label) if scored else task.words.index(row.label)
    return example
