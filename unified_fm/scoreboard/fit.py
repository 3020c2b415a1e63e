"""A trained cell: the fine-tuning is run in this process, and its predictions are read back."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unified_fm.checkpoint import assets, start
from unified_fm.config import file as config_file
from unified_fm.config import of_run
from unified_fm.data import identity
from unified_fm.data.source import open_source
from unified_fm.scoreboard.cell import Cell, Finished, Hashes, short_hash
from unified_fm.tasks._scoring.lines import of_text

EVALUATOR = "test"  # the evaluator of a cell's config whose predictions count
_INIT = "init.path"  # the setting by which a fine-tuning says what it starts from
_SOURCES = ("path", "all")  # of `init`: where the checkpoint lies, whose content is hashed
_STOPPED = (130, 143)  # exit statuses of a signal
Train = Callable[[Sequence[str]], int]


class Stopped(Exception):
    """A signal came; what is finished is kept, and the same command goes on.

    Attributes:
        status: the exit status of the process.
    """

    def __init__(self, status: int):
        super().__init__("stopped; the same command goes on where it was")
        self.status = status


class Failed(RuntimeError):
    """A cell's training failed."""


def run(cell: Cell, hashes: Hashes, workdir: Path, train: Train | None = None) -> Finished:
    """Trains and evaluates a cell; goes on where an earlier attempt in this workdir stopped.

    The workdir stays until its caller has kept what is returned.

    Args:
        cell: of the arm "scratch" or "pre-trained".
        hashes: of `hashes_of`.
        workdir: of this cell alone.
        train: what is called with the command line; None: `unified_fm.main.main`.

    Raises:
        Stopped: a signal came.
        Failed: the run ended with another status, or wrote no predictions, or no score of them.
    """
    if train is None:
        from unified_fm.main import main as train
    started = time.monotonic()
    status = train(["unified-fm train", *command(cell, workdir)])
    if status in _STOPPED:
        raise Stopped(status)
    if status:
        raise Failed(f"{cell.title}: the run ended with status {status}; see {workdir}")
    step, path = _last(workdir, cell)
    return Finished(
        cell=cell,
        hashes=hashes,
        lines=of_text(path.read_text("utf-8")),
        seconds=time.monotonic() - started,
        facts={"steps": step, "notes": _notes(path, cell)},
    )


def command(cell: Cell, workdir: Path) -> list[str]:
    """The flags of `unified-fm train` that make a cell."""
    return [
        f"--config={cell.config}",
        f"--workdir={workdir}",
        *(f"--config.{change}" for change in changes(cell)),
    ]


def changes(cell: Cell) -> list[str]:
    """The changes of a cell's config, with its seed and what it starts from."""
    return [f"{_INIT}={cell.init or of_run.SCRATCH}", *cell.changes, f"seed={cell.seed}"]


def hashes_of(cell: Cell, data: str, checkpoint: str) -> Hashes:
    """What a trained cell's numbers depend on; the settings are made and checked.

    Args:
        cell: to be trained.
        data: hash of its data (`data_hash`).
        checkpoint: of what `init` names (`checkpoint_hash`), if the cell starts from it.

    Raises:
        ValueError, TypeError: settings that cannot work.
        OSError: a file that they name is not there.
    """
    kept = assets.by_content(config_file.load(cell.config, changes(cell)))
    del kept["prepare"]  # says only what is made where it is not there
    if isinstance(kept["init"], Mapping):
        kept["init"] = {key: x for key, x in kept["init"].items() if key not in _SOURCES}
    elif cell.init:
        kept["init"] = ""  # a path alone
    return Hashes(config=short_hash(kept), data=data, checkpoint=checkpoint if cell.init else "")


def data_hash(sources: Mapping[str, str]) -> str:
    """A hash of the sources of a cell: their number of records and some of these."""
    found = {}
    for name, spec in sources.items():
        opened = open_source(spec)
        found[name] = [len(opened), identity.of_source(opened)]
    return short_hash(found)


def checkpoint_hash(init: str) -> str:
    """A hash of the files of what `init` names: of a run, those of its latest checkpoint.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is in a package that is not installed.
    """
    path = Path(start.place_of(init))
    saved = [p for p in (path / "checkpoints").glob("*") if p.name.isdecimal()]
    if saved:
        path = max(saved, key=lambda p: int(p.name))
    found = path.rglob("*") if path.is_dir() else [path]
    files = sorted(p for p in found if p.is_file())
    if not files:
        raise FileNotFoundError(f"{init}: there is no checkpoint in {path}")
    total = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()[:12]


def _notes(path: Path, cell: Cell) -> list[str]:
    """What the evaluator said beside its score: records that could not be used, above all.

    Raises:
        Failed: it gave no score, and so the board gives none.
    """
    report = path.with_suffix(".json")
    if not report.exists():
        raise Failed(
            f"{cell.title}: the evaluator has predictions in {path} and no score of them; the lines"
            " of the run say why (log.txt of the board): images that are not there, no labels"
        )
    return json.loads(report.read_text("utf-8"))["notes"]


def _last(workdir: Path, cell: Cell) -> tuple[int, Path]:
    """The step and the file of the last predictions on the test data."""
    form = re.compile(rf"{EVALUATOR}-(\d+)\.jsonl")
    found: list[tuple[int, Path]] = []
    for path in (workdir / "predictions").glob("*.jsonl"):
        if match := form.fullmatch(path.name):
            found.append((int(match[1]), path))
    if not found:
        raise Failed(
            f"{cell.title}: the run has left no predictions/{EVALUATOR}-STEP.jsonl in {workdir};"
            f" its config needs an evaluator called {EVALUATOR!r}"
        )
    return max(found)
