"""GLUE's submission: one flat zip of eleven files `index<TAB>prediction`; all must be there.

Digits for CoLA, SST-2, MRPC, QQP and WNLI, words for MNLI, AX, QNLI and RTE; STS-B a number clipped
to 0..5 with three decimals. The index is the row of test.tsv, from 0.
"""

import io
import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

from unified_fm import choices
from unified_fm.data import official
from unified_fm.data.glue_files import TASKS, Task
from unified_fm.data.official import WrongFile
from unified_fm.files import write_whole

# File -> its task and the test split that it predicts.
FILES: Mapping[str, tuple[Task, str]] = {
    file: (task, split) for task in TASKS.values() for split, file in task.files.items()
}
_HEAD = "index\tprediction"
_LARGEST = 100_000_000  # bytes of a file in a zip; QQP's has 5 million


def table(task: Task, predictions: Sequence[str | float]) -> str:
    """The content of a task's file.

    Args:
        task: one of GLUE's.
        predictions: a label of each row of the test file, as the files spell it ("1",
            "entailment") or as TFDS does ("acceptable"); numbers for STS-B.

    Raises:
        ValueError: a label that the task does not have.
    """
    words = [_word(task, prediction) for prediction in predictions]
    return "\n".join([_HEAD, *(f"{row}\t{word}" for row, word in enumerate(words))]) + "\n"


def write(
    path: pathlib.Path,
    predictions: Mapping[str, Sequence[str | float]],
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Writes the zip.

    Args:
        path: of the zip.
        predictions: by file name ("MNLI-m.tsv"), all eleven.
        sizes: rows that each must have; None: as the test files are published.

    Raises:
        ValueError: a file missing, unknown, or of another number of rows.
    """
    for name in predictions:
        choices.check("file of a GLUE submission", name, FILES)
    if missing := [name for name in FILES if name not in predictions]:
        raise ValueError(f"the server refuses a submission without {', '.join(missing)}")
    wanted = sizes or {name: task.sizes[split] for name, (task, split) in FILES.items()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (task, _) in FILES.items():
            if len(predictions[name]) != wanted[name]:
                raise ValueError(
                    f"{name}: {len(predictions[name])} rows; {wanted[name]} are needed"
                )
            # A fixed date: the same predictions are the same file.
            entry = zipfile.ZipInfo(name, (2018, 4, 20, 0, 0, 0))
            archive.writestr(entry, table(task, predictions[name]), zipfile.ZIP_DEFLATED)
    write_whole(path, content.getvalue())


def read(path: pathlib.Path, file: str) -> dict[str, str]:
    """{row: prediction} of a file as the server takes it, alone or inside a zip.

    Args:
        path: of the TSV, or of a zip that holds `file`.
        file: its name in a submission ("CoLA.tsv").

    Raises:
        WrongFile: another layout, or a zip without it.
    """
    official.refuse_pickle(path, "GLUE's index and prediction as TSV")
    text = _unzipped(path, file) if zipfile.is_zipfile(path) else official.content(path)
    lines = text.splitlines()
    if not lines or lines[0].strip() != _HEAD:
        first = lines[0] if lines else ""
        raise WrongFile(f"{path}, line 1: {first!r}; a header {_HEAD!r} is needed")
    found: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        row, tab, prediction = line.partition("\t")
        if not tab or not row.strip().isdecimal():
            raise WrongFile(f"{path}, line {number}: {line!r} is not a row and a prediction")
        key = str(int(row))
        if key in found:
            raise WrongFile(f"{path}, line {number} is a second prediction for row {key}")
        found[key] = prediction.strip()
    return found


def _unzipped(path: pathlib.Path, file: str) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if file not in names:
            raise WrongFile(f"{path} has no {file}; {choices.possible(file, names)}")
        if archive.getinfo(file).file_size > _LARGEST:
            raise WrongFile(f"{path}: {file} has more than {_LARGEST:,} bytes")
        return official.decoded(archive.read(file), f"{path}: {file}")


def _word(task: Task, prediction: str | float) -> str:
    if not task.classes:
        number = float(prediction)
        if not math.isfinite(number):
            raise ValueError(f"{task.folder}: a prediction is {number}")
        return f"{min(5.0, max(0.0, number)):.3f}"
    if prediction in task.words:
        return str(prediction)
    if prediction in task.classes:
        return task.words[task.classes.index(str(prediction))]
    raise ValueError(
        f"{task.folder} has no label {prediction!r}; possible: {', '.join(task.words)}"
        + ("" if task.words == task.classes else f", or {', '.join(task.classes)}")
    )
