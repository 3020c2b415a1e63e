"""The scoreboard: every task of a list, in all arms and seeds, one cell after the other."""

import dataclasses
import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_fm import touched
from unified_fm.scoreboard import compare, fit, trivial
from unified_fm.scoreboard.cell import Cell, Finished, Hashes, short_hash
from unified_fm.scoreboard.row import Row
from unified_fm.scoreboard.store import Store
from unified_fm.tasks._baselines.base import NotInstalled

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a scoreboard measures on one test set.

    Attributes:
        name: of its rows.
        kind: of its predictions (`lines.KINDS`).
        baselines: kind of task in `tasks/_baselines/table.py`.
        config: of the fine-tuning, as `--config` takes it, with a stream "task" and an evaluator
            "test" that runs once, at the end.
        train, test: source strings.
        split: how the test split is called.
        metrics: of the score, a row each; none: its headline.
        labels: amounts of training data, as `few:` takes them; "" is all.
        changes: of the config, in both arms.
        scratch: further changes of the arm "scratch": the model that `init` has.
        teacher: what the arm "teacher" starts from; "": there is none.
        of_teacher: further changes of that arm: sizes that its model reads.
        parts: of the demo corpus that it reads.
        published: {metric: {system: value}}.
    """

    name: str
    kind: str
    baselines: str
    config: str
    train: str
    test: str
    split: str = "test"
    metrics: Sequence[str] = ()
    labels: Sequence[str] = ("",)
    changes: Sequence[str] = ()
    scratch: Sequence[str] = ()
    teacher: str = ""
    of_teacher: Sequence[str] = ()
    parts: Sequence[str] = ()
    published: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def sources(self, labels: str) -> dict[str, str]:
        """{"train": source, "test": source} with so many labels."""
        return {"train": f"few:{labels}:{self.train}" if labels else self.train, "test": self.test}

    def cell(self, arm: str, labels: str, seed: int, init: str) -> Cell:
        """A cell to be trained."""
        sources = self.sources(labels)
        more = {"scratch": self.scratch, "teacher": self.of_teacher}
        return Cell(
            task=self.name,
            arm=arm,
            config=self.config,
            seed=seed,
            changes=(
                f"streams.task.source={sources['train']}",
                f"evaluate.evaluators.{fit.EVALUATOR}.source={sources['test']}",
                *self.changes,
                *more.get(arm, ()),
            ),
            init={"pre-trained": init, "teacher": self.teacher}.get(arm, ""),
            labels=labels,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """What is to be measured.

    Attributes:
        tasks: in the order of the rows.
        init: what "pre-trained" starts from; "": only the other columns are filled.
        seeds: of both trained arms.
    """

    tasks: Sequence[Task]
    init: str
    seeds: Sequence[int] = (0, 1, 2)

    @functools.cached_property
    def checkpoint(self) -> str:
        """The hash of what `init` names, read once; "" where there is none.

        Raises:
            FileNotFoundError: there is no checkpoint.
        """
        return fit.checkpoint_hash(self.init) if self.init else ""

    @functools.cached_property
    def _of_teachers(self) -> dict[str, str]:
        """{init of a teacher: its hash}, each read once."""
        return {init: fit.checkpoint_hash(init) for init in {t.teacher for t in self.tasks} - {""}}

    def hashes(self, cell: Cell, data: str) -> Hashes:
        """What a cell's numbers depend on; `data` is the hash of its data. See `fit.hashes_of`."""
        taught = cell.arm == "teacher"
        start = self._of_teachers[cell.init] if taught else self.checkpoint
        return fit.hashes_of(cell, data, start)

    def run(
        self,
        folder: Path,
        *,
        train: fit.Train | None = None,
        hashes: Callable[[Cell, str], Hashes] | None = None,
        told: Callable[[Sequence[Row], int, int], Any] = lambda rows, done, of: None,
        begun: Callable[[Cell], Any] = lambda cell: None,
    ) -> list[Row]:
        """Measures what is missing below the folder; gives the rows of all.

        Args:
            folder: of the store; interrupted at any moment, the same call goes on.
            train: as of `fit`.
            hashes: in place of the method of that name.
            told: called with the rows so far after every finished one: (rows, done, of all).
            begun: called with every cell that is to be trained, before it is.

        Raises:
            Stopped, Failed: as of `fit`.
        """
        kept = _Kept(folder, train, begun)
        hashes = hashes or self.hashes
        wanted = [(task, labels) for task in self.tasks for labels in task.labels]
        found: list[tuple[Task, Row]] = []
        rows: list[Row] = []
        for number, (task, labels) in enumerate(wanted, start=1):
            found += [(task, row) for row in self._rows(task, labels, kept, hashes)]
            # Other rows may be of the same test data, and all count for Holm's p.
            rows = [dataclasses.replace(row, tested=kept.times(task.test)) for task, row in found]
            rows = compare.corrected(rows)
            told(rows, number, len(wanted))
        return rows

    def missing(
        self, folder: Path, hashes: Callable[[Cell, str], Hashes] | None = None
    ) -> list[Cell]:
        """The cells that `run` would train. Raises as `fit.hashes_of`."""
        store, found, data = Store(folder), [], {}
        hashes = hashes or self.hashes
        for cell in cells(self):
            task = next(task for task in self.tasks if task.name == cell.task)
            amount = task.name, cell.labels
            if amount not in data:
                data[amount] = fit.data_hash(task.sources(cell.labels))
            if store.get(hashes(cell, data[amount]).key(cell)) is None:
                found.append(cell)
        return found

    def _rows(self, task, labels, kept, hashes) -> list[Row]:
        sources = task.sources(labels)
        data = fit.data_hash(sources)
        simple, missing = _trivial(task, labels, sources, data, kept)
        arms: dict[str, list[Finished]] = {arm: [] for arm in _arms(task, self.init)}
        for seed in self.seeds:
            for arm, cells in arms.items():
                cell = task.cell(arm, labels, seed, self.init)
                cells.append(kept.trained(cell, hashes(cell, data), task.test))
        return compare.rows(
            compare.Measured(
                task.name, labels, task.split, task.kind, task.metrics, task.published
            ),
            trivial=simple,
            scratch=arms["scratch"],
            pre_trained=arms.get("pre-trained", ()),
            teacher=arms.get("teacher", ()),
            missing=missing,
        )


class _Kept:
    """The finished cells of a folder, and how those that are missing are made.

    Each is an evaluation of test data, which is noted in `touched.FILE`: also of cells that are no
    more asked for, as of another checkpoint or of a config that has changed since.
    """

    def __init__(self, folder: Path, train: fit.Train | None, begun: Callable[[Cell], Any]):
        self._folder, self._store = Path(folder), Store(folder)
        self._train, self._begun = train, begun

    def trained(self, cell: Cell, hashes: Hashes, test: str) -> Finished:
        """The cell, which is trained if it is not there."""
        key, work = hashes.key(cell), self._folder / "work"
        found = self.get(key, test)
        if found is None:
            self._begun(cell)
            _log.info("%s", cell.title)
            started = time.monotonic()
            found = fit.run(cell, hashes, work / key, self._train)
            self.put(found, test)
            shutil.rmtree(work / key)  # only now: what is killed before goes on there
            _log.info("%s: done in %.0f s", cell.title, time.monotonic() - started)
        return found

    def get(self, key: str, test: str) -> Finished | None:
        """A cell that is there."""
        found = self._store.get(key)
        if found is not None:  # noted already, if nobody was killed between the two
            self._note(found, test, once="cell")
        return found

    def put(self, finished: Finished, test: str) -> None:
        """Keeps a cell that was made of these test data."""
        self._store.put(finished)
        self._note(finished, test)

    def times(self, test: str) -> int:
        """How often these test data were evaluated."""
        return len(touched.read(self._folder).get(test, ()))

    def _note(self, finished: Finished, test: str, once: str = "") -> None:
        about = {"name": finished.cell.title, "checkpoint": finished.hashes.checkpoint}
        touched.add(self._folder, test, about | {"cell": finished.key}, once=once)


def _trivial(
    task: Task, labels: str, sources: Mapping[str, str], data: str, kept: _Kept
) -> tuple[list[Finished], str]:
    """The baselines of a task, and why one is missing."""
    found, reasons, read = [], [], _Once(sources)
    for baseline in trivial.named(task.baselines):
        cell = Cell(task=task.name, arm="trivial", config=baseline.title, labels=labels)
        hashes = Hashes(config=short_hash([baseline.title, task.kind]), data=data)
        finished = kept.get(hashes.key(cell), task.test)
        if finished is None:
            try:
                finished = trivial.predict(cell, hashes, task.kind, task.baselines, read.data)
            except NotInstalled as error:
                reasons.append(f"{baseline.title} {error}")
                continue
            kept.put(finished, task.test)
        found.append(finished)
    return found, "; ".join(reasons)


class _Once:
    """The data of a task, read when they are first needed."""

    def __init__(self, sources: Mapping[str, str]):
        self._sources = sources
        self._data: trivial.Data | None = None

    @property
    def data(self) -> trivial.Data:
        if self._data is None:
            self._data = trivial.load(**self._sources)
        return self._data


def cells(board: Board) -> Iterator[Cell]:
    """All cells of a board that are trained, in their order."""
    for task in board.tasks:
        for labels in task.labels:
            for seed in board.seeds:
                for arm in _arms(task, board.init):
                    yield task.cell(arm, labels, seed, board.init)


def _arms(task: Task, init: str) -> list[str]:
    """The arms of a task that are trained."""
    arms = {"scratch": True, "pre-trained": bool(init), "teacher": bool(task.teacher)}
    return [arm for arm, there in arms.items() if there]
