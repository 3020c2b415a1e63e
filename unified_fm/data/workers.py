"""The loader's processes: they make the examples, and the run joins them to batches.

Threads share one interpreter, which is busy with a single one of them at a time: a run's own
process ends near some hundreds of pictures per second, however many cores there are. What is in a
batch does not depend on who makes it, since the numbers drawn for an example are a function of
(seed, epoch, index). A worker is a fresh interpreter, never a fork of one in which JAX has threads.
One that does not get on is soon named in the log. One that ends, or says nothing for long, is
named, too, and another one makes again what it had to; if that one fails there as well, the run
ends with the record's name.
"""

import collections
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

from unified_fm.data import shared_memory, worker_process
from unified_fm.data.loader import Batch, Loader, cores
from unified_fm.data.skips import TooManySkips
from unified_fm.data.source import name_record
from unified_fm.data.worker import Event
from unified_fm.data.worker_process import GRACE, Task, WorkerProcess

_log = logging.getLogger(__name__)

_QUEUED = 2  # pieces of work that a worker is given at once: it never waits for the next
_AHEAD = 512  # examples of a stream that are made ahead, about, where two batches are fewer
_MANY_CORES, _MANY_PIXELS, _MOST = 8, 5_000_000, 16  # see `suitable`; values of 33 pictures
_POSIX = os.name == "posix"  # elsewhere no descriptor goes from one process to another
_LOOK = 0.2  # seconds between two looks whether all is well
_SLOW = 7.0  # seconds for an example, after which that is said
_START_PATIENCE = 600.0  # seconds to open the sources, at least
_SLOWER = 4  # times as long as in the run, for each worker: all of them open at once


class WorkerFailed(RuntimeError):
    """A process of the loader has ended or is stuck, and the one in its place, too."""


class Stopped(Exception):
    """The batches are not wanted any more."""


class _Made(NamedTuple):
    """What came back of a task: examples, or an error; and what became of the records.

    The examples lie in a piece of memory of the worker.
    """

    examples: Any
    error: Exception | None
    events: list[Event]
    lines: list[tuple[str, int, str]]
    worker: WorkerProcess
    piece: int


class Workers:
    """Endless batches of several streams from processes; `close()` ends them.

    Attributes:
        processes: how many there are.
    """

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        starts: Mapping[str, int],
        *,
        processes: int,
        patience: float,
        stop: threading.Event,
    ):
        """Starts the processes; none of them is waited for.

        Args:
            loaders: {stream: its loader}, of one seed.
            starts: {stream: the global slot that the first batch begins with}.
            processes: how many.
            patience: seconds for an example, before a worker is taken to be stuck.
            stop: set when no batch is wanted any more.

        Raises:
            ValueError: this system has no way to pass memory to another process, or the streams
                cannot leave this one.
        """
        if not _POSIX:
            raise ValueError(f"loader.processes={processes}: {sys.platform} has none; set it to 0")
        self.processes = processes
        self._loaders, self._patience, self._stop = loaders, patience, stop
        opening = sum(loader.opening for loader in loaders.values())
        self._opening = _SLOWER * processes * opening  # seconds that a worker may well take for it
        self._start_patience = max(patience, _START_PATIENCE, self._opening)
        self._starts = dict(starts)  # as they are now
        self._tasks = _in_order(loaders, self._starts)
        self._again: collections.deque[Task] = collections.deque()  # of workers that failed
        # {number of a task, or -1 - that of a worker that starts: how many workers failed at it}
        self._failures: collections.Counter[int] = collections.Counter()
        self._made: dict[int, _Made] = {}
        self._wanted = 0  # the number of the next task whose result is taken
        self._given = 0  # tasks that were given to workers
        per_step = sum(loader.local_slots // loader.chunk for loader in loaders.values())
        least = sum(-(-_AHEAD // loader.chunk) for loader in loaders.values())
        self._ahead = max((_QUEUED + 1) * processes, min(2 * per_step, least))
        # Of each: what lies ready, what is being joined, what is being written.
        joined = max(loader.local_slots // loader.chunk for loader in loaders.values())
        self._pieces = (self._ahead + joined) // processes + _QUEUED + 1
        self._setup = worker_process.setup_file(loaders)
        self._workers: list[WorkerProcess] = []
        try:
            for number in range(processes):
                self._workers.append(WorkerProcess(number, self._setup, self._pieces))
        except BaseException:
            self.close()
            raise

    def batches(self) -> Iterator[dict[str, Batch]]:
        """A batch of every stream, again and again.

        Raises:
            TooManySkips: see `skips`. Whatever else went wrong in a worker.
            WorkerFailed: two workers ended or were stuck in the same piece of work.
            Stopped: `stop` was set.
        """
        for step in itertools.count():
            yield {name: self._batch(loader, step) for name, loader in self._loaders.items()}

    @property
    def ready(self) -> bool:
        """Whether all of them have opened the sources, as far as they were listened to."""
        return all(worker.ready for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends the processes, those that are stuck too."""
        for worker in self._workers:
            worker.hang_up()
        deadline = time.monotonic() + GRACE
        for worker in self._workers:
            worker.end(deadline)
        self._workers = []
        self._setup.close()

    def _batch(self, loader: Loader, step: int) -> Batch:
        parts = [self._next(loader) for _ in range(loader.local_slots // loader.chunk)]
        start = self._starts[loader.name] + step * loader.slots
        slots = [loader.slot_of(start, place) for place in range(loader.local_slots)]
        joined = loader.collate([example for part in parts for example in part.examples])
        joined = shared_memory.own(joined)  # also what a pipeline has handed on as it was
        for part in parts:
            part.worker.free.append(part.piece)
        return joined | loader.extra(slots)

    def _next(self, loader: Loader) -> _Made:
        """What came of the next task."""
        while self._wanted not in self._made:
            self._give()
            self._look()
        made = self._made.pop(self._wanted)
        self._failures.pop(self._wanted, None)
        self._wanted += 1
        for name, level, line in made.lines:
            logging.getLogger(name).log(level, "%s", line)
        for event in made.events:
            event.tell(loader.skips)
        if isinstance(made.error, TooManySkips):
            raise TooManySkips(f"{made.error}{loader.skips.table()}") from made.error
        if made.error is not None:
            raise made.error
        return made

    def _give(self) -> None:
        """Gives out tasks, to whoever has least to do, as far ahead as is allowed."""
        for busy in range(_QUEUED):
            for worker in self._workers:
                if len(worker.tasks) > busy or not worker.ready or not worker.free:
                    continue
                if self._again:
                    task = self._again.popleft()
                elif self._given - self._wanted < self._ahead:
                    task = next(self._tasks)
                    self._given += 1
                else:
                    return
                worker.give(task)

    def _look(self) -> None:
        """Takes what has come, for a moment; sees to those that failed."""
        if self._stop.is_set():
            raise Stopped
        speaking = connection.wait([worker.line for worker in self._workers], timeout=_LOOK)
        for worker in [worker for worker in self._workers if worker.line in speaking]:
            if (message := worker.read()) is None:
                self._replace(worker, worker.ended())
            else:
                self._take(worker, *message)
        for worker in list(self._workers):
            patience = self._patience if worker.ready else self._start_patience
            slow = _SLOW if worker.ready else max(_SLOW, self._opening)
            if (waited := worker.silent()) > patience:
                worker.kill()
                self._replace(worker, f"has not got on for {waited:.0f} s, and was ended")
            elif waited > slow and not worker.named:
                worker.named = True
                _log.warning(
                    "%s has not got on for %.0f s%s; after %.0f s another one takes its place",
                    *(worker, waited, self._where(worker), patience),
                )

    def _take(self, worker: WorkerProcess, what: str, *message: Any) -> None:
        """One message of a worker."""
        if what == "failed":
            raise message[0]
        if what == "ready":
            self._check_same(worker, message[0])
            worker.start()
            self._failures.pop(-1 - worker.number, None)
            return
        number, content, events, lines, piece, _ = message
        worker.finish(number)
        examples, error = (content, None) if what == "made" else (None, content)
        self._made[number] = _Made(examples, error, events, lines, worker, piece)

    def _check_same(self, worker: WorkerProcess, records: Mapping[str, int]) -> None:
        for name, found in records.items():
            if found != self._loaders[name].records:
                raise RuntimeError(
                    f"stream {name!r}: {worker} finds {found:,} records in the source in which the"
                    f" run has found {self._loaders[name].records:,}: its files have changed"
                )

    def _replace(self, worker: WorkerProcess, why: str) -> None:
        """Lets another worker do what this one had to, unless that has been tried before."""
        where, doing = self._where(worker), -1 - worker.number
        if worker.tasks:
            doing = worker.tasks[0].number
        self._failures[doing] += 1
        if self._failures[doing] > 1:
            raise WorkerFailed(f"{worker} {why}{where}, as one before it; {_REPAIR}")
        _log.warning("%s %s%s; another one takes its place", worker, why, where)
        worker.hang_up()
        worker.end(time.monotonic())
        self._again.extend(worker.tasks)
        place = self._workers.index(worker)
        self._workers[place] = WorkerProcess(worker.number, self._setup, self._pieces)

    def _where(self, worker: WorkerProcess) -> str:
        """Where a worker is, or was when it ended: " at stream 'text', record 7 of ..."."""
        slot = worker.slot()
        if slot is None:
            return " with nothing to do" if worker.ready else " before it was ready"
        stream = worker.tasks[0].stream
        loader = self._loaders[stream]
        named = name_record(loader.source, loader.entry.source, loader.index_of(slot))
        return f" at stream {stream!r}, {named}"


_REPAIR = (
    "what it printed stands above, if anything (SIGKILL: often the system was out of memory). Leave"
    " the record out, give it more memory, or set loader.processes=0 to load in the run itself"
)


def suitable(loaders: Mapping[str, Loader]) -> int:
    """How many processes suit these streams on this machine; 0: threads do as well.

    A quarter of the cores, where there are eight or more and a step takes some pictures: with few
    cores threads keep them as busy, and short texts cost less than passing them on.
    """
    pixels = sum(
        math.prod(spec.shape) * loader.local_slots
        for loader in loaders.values()
        for spec in loader.pipeline.spec().values()
        if spec.dtype == np.uint8
    )
    if cores() < _MANY_CORES or pixels < _MANY_PIXELS or not _POSIX:
        return 0
    return min(cores() // 4, _MOST)


def _in_order(loaders: Mapping[str, Loader], starts: Mapping[str, int]) -> Iterator[Task]:
    """All work there is, in the order in which its results are taken."""
    number = itertools.count()
    for step in itertools.count():
        for name, loader in loaders.items():
            start = starts[name] + step * loader.slots
            for first in range(0, loader.local_slots, loader.chunk):
                slots = [loader.slot_of(start, first + k) for k in range(loader.chunk)]
                yield Task(next(number), name, slots)
