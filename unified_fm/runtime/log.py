"""The log of a run: a progress line, `metrics.jsonl`, and TensorBoard files.

`metrics.jsonl` holds one object per logged step: `step` and numbers by name ("pairs/itc" is the
loss of an objective of a stream). On resume the lines after the restored step are dropped, so the
file reads as if the run had never stopped.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import tensorboardX
from etils import epath

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
        self._board = None
        if self._writes:
            self._store(_lines_until(self.path, start_step))
            if tensorboard and "://" not in str(workdir):
                folder = os.path.join(str(workdir), "tensorboard")
                self._board = tensorboardX.SummaryWriter(folder, purge_step=start_step + 1)

    def waited(self, seconds: float) -> None:
        """Counts time that the loop has waited for data."""
        self._waited += seconds

    def resume_clock(self) -> None:
        """Starts a new interval, after an evaluation or a save that is not to be counted."""
        self._last_time = time.monotonic()
        self._waited = 0.0

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
        seconds = max(time.monotonic() - self._last_time, 1e-9)
        made = max(step - self._last_step, 1)
        values |= extra
        values["samples_per_second"] = made * self._samples / seconds
        values["data_wait"] = min(1.0, self._waited / seconds)
        left = (self._total - step) * seconds / made
        self._last_step = step
        self.resume_clock()
        self.write(step, values)
        if self._writes:
            _log.info(progress_line(step, self._total, values, left))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers of a step, such as those of an evaluation."""
        if not self._writes:
            return
        line = json.dumps({"step": step, **{k: _plain(v) for k, v in values.items()}})
        if "://" in str(self.path):  # an object store cannot append
            self._store([*_lines_until(self.path, step), line])
        else:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes the TensorBoard files."""
        if self._board is not None:
            self._board.close()

    def _store(self, lines):
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        temporary.write_text("".join(line + "\n" for line in lines))
        temporary.replace(self.path)


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
        if len(parts) == 2 and parts[0] not in ("loss", "grad_norm"):
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


def _lines_until(path: Any, step: int) -> list[str]:
    """The lines of an earlier run up to `step`, without a last line that a kill has cut."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept
