"""The log of a run: a progress line, `metrics.jsonl`, and TensorBoard files.

`metrics.jsonl` holds one object per logged step: `step` and numbers by name ("pairs/itc" is the
loss of an objective of a stream). On resume the lines after the restored step are dropped, so the
file reads as if the run had never stopped. A write that fails (a full disk) is a warning, never the
end of a run: the lines wait and are written when there is room.
"""

import contextlib
import errno
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from unified_fm import files
from unified_fm.runtime import board

_MOST_WAITING = 10_000  # lines, of about a kilobyte
_log = logging.getLogger(__name__)


class Log:
    """Writes what a step returns, every `every` steps, on process 0."""

    def __init__(
        self,
        workdir: Any,
        *,
        total_steps: int,
        start_step: int,
        samples_per_step: int,
        every: int = 50,
        tensorboard: bool = True,
    ):
        """Opens the files and drops what an earlier run wrote after `start_step`.

        Args:
            workdir: of the run; local or gs://.
            total_steps: for the progress line.
            start_step: steps made before.
            samples_per_step: rows of all streams in one step.
            every: steps between two lines.
            tensorboard: whether to write TensorBoard files (only into a local workdir).

        Raises:
            ValueError: `every` is not positive.
        """
        if every < 1:
            raise ValueError(f"log.every must be at least 1, found {every}")
        self.path = epath.Path(workdir) / "metrics.jsonl"
        self.every = every
        self._total = total_steps
        self._samples = samples_per_step
        self._writes = jax.process_index() == 0
        self._last_step = start_step
        self._last_time = time.monotonic()
        self._waited = 0.0
        self._paused = 0.0
        self._start_step = start_step
        self._trimmed = False  # whether what an earlier run wrote after `start_step` is gone
        self._waiting: list[str] = []  # lines for which there was no room
        self._dropped = 0
        self._failures: dict[str, int] = {}
        self._board = None
        if self._writes:
            with self._going_on("metrics.jsonl"):
                self._trim()
            if tensorboard and "://" not in str(workdir):
                folder = os.path.join(str(workdir), "tensorboard")
                self._board = board.Board(folder, first_step=start_step + 1)

    @property
    def failures(self) -> dict[str, int]:
        """The writes that failed, counted by file."""
        return dict(self._failures)

    def waited(self, seconds: float) -> None:
        """Counts time that the loop has waited for data."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is no time of training: an evaluation."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - started

    def due(self, step: int) -> bool:
        """Whether `step` is to be logged."""
        return step % self.every == 0 or step == self._total

    def train(self, step: int, metrics: Mapping[str, Any], extra: Mapping[str, float]) -> None:
        """Fetches and writes the metrics of a step, and prints the progress line.

        Args:
            step: steps made.
            metrics: f32[] by name, on the devices.
            extra: numbers that the host knows (the learning rate).
        """
        values = {name: float(x) for name, x in jax.device_get(dict(metrics)).items()}
        seconds = max(time.monotonic() - self._last_time - self._paused, 1e-9)
        made = max(step - self._last_step, 1)
        values |= extra
        values["samples_per_second"] = made * self._samples / seconds
        values["data_wait"] = min(1.0, self._waited / seconds)
        left = (self._total - step) * seconds / made
        self._last_step, self._last_time = step, time.monotonic()
        self._waited = self._paused = 0.0
        self.write(step, values)
        if self._writes:
            _log.info(progress_line(step, self._total, values, left))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers of a step, such as those of an evaluation; without room, later."""
        if not self._writes:
            return
        line = {"step": step, **{k: _plain(v) for k, v in values.items()}}
        self._waiting.append(json.dumps(line))
        self.flush()
        if len(self._waiting) > _MOST_WAITING:
            del self._waiting[0]
            self._dropped += 1
        if self._board is not None:
            with self._going_on("TensorBoard"):
                self._board.write(step, values)

    def flush(self) -> bool:
        """Writes the lines that wait; returns whether none waits any more."""
        if not self._writes:
            return True
        with self._going_on("metrics.jsonl"):
            if not self._trimmed:
                self._trim()
            self._forget()
            self._append()
        return not self._waiting

    def close(self) -> None:
        """Writes what is left, and says what could not be written."""
        if self._waiting:
            self.flush()
        if self._board is not None:
            with self._going_on("TensorBoard"):
                self._board.close()
        lost = len(self._waiting) + self._dropped
        for what, count in self._failures.items():
            gaps = f"{lost} lines are lost" if what == "metrics.jsonl" else "there may be gaps"
            _log.warning("%d writes of %s failed in all; %s", count, what, gaps)

    def _append(self):
        """Writes all lines that wait, or none: a full disk cuts a line in the middle."""
        if "://" in str(self.path):  # an object store cannot append
            self._store([*self.path.read_text().splitlines(), *self._waiting])
        else:
            data = "".join(line + "\n" for line in self._waiting).encode()
            with open(self.path, "ab", buffering=0) as file:
                before = file.tell()
                try:
                    if file.write(data) < len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(before)
                    raise
        self._waiting = []

    def _forget(self):
        """Drops what an earlier run wrote of an evaluation that is made again."""
        lines = [json.loads(text) for text in self._waiting]
        again = [line for line in lines if line["step"] == self._start_step]
        if not again:
            return
        kept = _lines_until(self.path, self._start_step)
        others = [
            text
            for text in kept
            if not any(_same_numbers(json.loads(text), line) for line in again)
        ]
        if len(others) < len(kept):
            self._store(others)

    def _trim(self):
        self._store(_lines_until(self.path, self._start_step))
        self._trimmed = True

    @contextlib.contextmanager
    def _going_on(self, what):
        """Counts what could not be written, and warns at the first time."""
        try:
            yield
        except OSError as error:
            self._failures[what] = self._failures.get(what, 0) + 1
            if self._failures[what] == 1:
                _log.warning("%s could not be written (%s); the run goes on", what, error)

    def _store(self, lines):
        files.write_whole(self.path, "".join(line + "\n" for line in lines))


def progress_line(step: int, total: int, values: Mapping[str, float], left: float) -> str:
    """One line: step, loss of every stream and objective, samples per second, ETA, data wait.

    Args:
        step, total: steps made and to make.
        values: by name, as `Log.train` writes them.
        left: seconds to the end.
    """
    losses = {}
    for name, value in values.items():
        parts = name.split("/")
        if len(parts) == 2 and parts[0] not in ("loss", "grad_norm", "time"):
            losses.setdefault(parts[0], []).append(f"{parts[1]} {value:.3f}")
    streams = " | ".join(f"{stream} {' '.join(terms)}" for stream, terms in losses.items())
    return (
        f"step {step}/{total} | {streams} | {values['samples_per_second']:.0f} samples/s | "
        f"ETA {duration(left)} | data wait {100 * values['data_wait']:.0f}%"
    )


def duration(seconds: float) -> str:
    """Writes seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _plain(value: float) -> float | str:
    """JSON has no NaN; such a value is written as a string, which readers of numbers skip."""
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _same_numbers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["step"] == other["step"] and one.keys() == other.keys()


def _lines_until(path: Any, step: int) -> list[str]:
    """The lines of an earlier run up to `step`, without a last line that a kill has cut."""
    kept = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = line.decode()
            if json.loads(text)["step"] <= step:
                kept.append(text)
    return kept
