"""A stream's objectives on another source: every loss and metric of it, without dropout.

`dict(name="held_out", like="task", source="jsonl:dev.jsonl")` reads that source as the stream
"task" of the run is read, but in order and not augmented, and asks the stream's own objectives,
with its teachers and the averaged parameters where those need them. So any task has its measures on
held-out data, and `checkpoint.best` may be one of them ("dev/task/nlvr2/accuracy").
"""

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from unified_fm import choices
from unified_fm.data import batching, streams
from unified_fm.data.loader import Batch
from unified_fm.evaluators import base
from unified_fm.evaluators._batches import stack
from unified_fm.evaluators.base import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.Evaluator):
    """Means over the rows of a source. With several processes each takes whole batches in turn.

    There is no chance level: the curves of training are what these numbers are compared with.

    Attributes:
        like: name of the stream of the run.
        source: the source string.
        num_examples: how many records are used, from the first on; None: all.
        batch_size: rows of a batch, which the stream's groups divide; None: as many as in the
            stream, which decides how hard a
            contrastive loss is.
        seed: of the masks, and of the objectives' random choices.
    """

    like: str
    source: str
    num_examples: int | None = None
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError: the run has no stream of this name."""
        choices.check("like", self.like, self.streams)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the batches come from."""
        return (self.source,)

    @property
    def asks(self) -> tuple[str, ...]:
        """The stream."""
        return (self.like,)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The losses; what follows behind their names are their terms and metrics."""
        return tuple(f"{self.like}/{name}" for name in self.streams[self.like]["objectives"])

    def check(self) -> None:
        """Makes one batch. Raises what opening the source and reading it raises."""
        with contextlib.closing(self._batches()) as batches:
            next(batches, None)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields "stream/objective", "stream/objective/metric", and "stream/objective/term" for
        losses of several terms."""
        rows = []
        for number, batch in self._batches():
            rng = jax.random.fold_in(jax.random.key(self.seed), number)
            outputs = jax.device_get(apply.outputs(self.like, params, batch, rng))
            rows.append({"number": number} | _values(outputs))
        found = self.passes.processes.gather(stack(rows))
        order = np.argsort(found.pop("number"))
        for name, columns in found.items():
            value, weight, is_loss = columns[order].T
            mean = (value * weight).sum() / max(weight.sum(), 1e-12)
            better = "lower" if is_loss.any() else "higher"
            yield Metric(f"{self.like}/{name}", float(mean), better=better)

    def _batches(self) -> Generator[tuple[int, Batch]]:
        """Yields (number among all, batch) of the batches of this process."""
        entry = batching.Entry.of(self.like, self.streams[self.like])
        rows = entry.batch_size if self.batch_size is None else self.batch_size
        processes = self.passes.processes
        made = streams.batches(
            dataclasses.replace(entry, source=self.source, max_skip=1.0, batch_size=rows),
            tokenizer=self.tokenizer,
            seed=self.seed,
            limit=self.num_examples,
            turn=(processes.index, processes.count),
            on_loss=lambda line: self.passes.lossy.update({self.source: line}),
        )
        for place, batch in enumerate(made):
            yield processes.index + place * processes.count, batch


def _values(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{name: (value, weight, whether it is a loss)} of the outputs of one batch."""
    values = {}
    for name, output in outputs.items():
        losses = {"": (output.loss, output.denominator)}
        losses |= {f"/{part}": pair for part, pair in output.parts.items()}
        metrics = {f"/{metric}": value for metric, value in output.metrics.items()}
        values |= {name + key: (*map(float, pair), 1.0) for key, pair in losses.items()}
        weight = float(output.denominator)
        values |= {name + key: (float(value), weight, 0.0) for key, value in metrics.items()}
    return values
