"""Evaluation by predictions: they are written first, one JSON line each, then read and scored.

    WORKDIR/predictions/dev-800.jsonl    {"id": 12, "prediction": "entailment", "truth": "neutral"}
    WORKDIR/predictions/dev-800.json     what `unified-fm score` says of a file: values, intervals

of an evaluator called "dev" at step 800. So a score can be taken again without the model, and what
a server takes is another form of the same lines. A source without truth (GLUE's test sets) gives
predictions and no score, and a sentence about that; so does one of which records cannot be used,
where a task allows no score of a part (`every_record`).
"""

import contextlib
import dataclasses
import json
import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from unified_fm import choices
from unified_fm.data.batching import Entry
from unified_fm.data.loader import Example, Loader
from unified_fm.data.pipelines import base as pipelines
from unified_fm.evaluators import base
from unified_fm.evaluators._batches import padded, stack
from unified_fm.files import write_whole
from unified_fm.tasks._scoring.lines import Line, of_fields, of_text, to_json
from unified_fm.tasks._scoring.scored import Scored

_log = logging.getLogger(__name__)
FOLDER = "predictions"
CHOSEN = "the best step of the run is chosen by these data, so at that step they say too much"
_FIRST = 64  # records that are looked at before the first step: more are read ahead
_NAMED = 3  # records that a message names
_TO_ERROR = 2 * 1.959963984540054  # a 95 % interval in standard errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted(base.Evaluator):
    """Predicts every example of a source with the objective of a stream, and scores that.

    A task's evaluator derives from it and says what a row's prediction and truth are (`line`), and
    what is scored (`score`). The examples are read as the stream's, in order, not augmented; each
    process has a part of them, and all get the same metrics.

    Attributes:
        like: the stream of the run.
        source: the source string.
        objective: its name in the stream; "": the stream has one alone.
        options: of the pipeline, where they differ from the stream's.
        num_examples: how many records are used, from the first on; None: all.
        batch_size: rows of a compiled call; None: as many as in the stream.
        seed: of the bootstrap.
        every_record: of a task: whether without some of the records nothing is scored, since their
            absence is no accident of the draw, and the number would be one of other data.
    """

    every_record: ClassVar[bool] = False

    like: str
    source: str
    objective: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_examples: int | None = None
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError: the run has no such stream, or the stream no such objective."""
        choices.check("like", self.like, self.streams)
        objectives = self.streams[self.like]["objectives"]
        if self.objective or len(objectives) != 1:
            choices.check("objective", self.objective, objectives)

    @abstractmethod
    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """A row's prediction and truth, of JSON's types, labels as words.

        Args:
            example: the record, and the arrays of the pipeline.
            found: this row of what the objective's `predict` says.
            source: that the record is from.
        """
        ...

    @abstractmethod
    def score(self, lines: Sequence[Line]) -> Scored:
        """The score of lines that have a truth, as they were read back."""
        ...

    def ask(self, apply: base.Apply, params: Any, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is predicted of a batch, {name: [B ...]}: what the objective's `predict` says."""
        return apply.predictions(self.like, self.key, params, batch)

    def submit(self, lines: Sequence[Line], folder: Any, stem: str) -> None:
        """Writes what the task's server takes, where it takes something, as FOLDER/STEM..."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the examples come from."""
        return (self.source,)

    @property
    def asks(self) -> tuple[str, ...]:
        """No stream: a prediction needs neither teachers nor the average."""
        return ()

    @property
    def key(self) -> str:
        """The objective's name in the stream."""
        return self.objective or next(iter(self.streams[self.like]["objectives"]))

    @property
    def objective_options(self) -> Mapping[str, Any]:
        """What the config says of the objective."""
        entry = self.streams[self.like]["objectives"][self.key]
        return entry if isinstance(entry, Mapping) else {}

    @property
    def labels(self) -> Sequence[str]:
        """The names of the stream's classes, as the model has learnt them; none: they have none."""
        return self.place.class_names.get(self.like, ())

    def check(self) -> None:
        """Opens the source and makes an example of its first records.

        Raises:
            ValueError: none of them is usable, or it has classes that the model does not know.
        """
        loader = self._loader()
        self.check_labels(loader.source.class_names)
        numbers = range(min(loader.records, self.num_examples or loader.records, _FIRST))
        with contextlib.closing(loader.examples(numbers, np.random.default_rng)) as examples:
            if next(iter(examples), None) is None:
                raise ValueError(
                    f"no usable record among the first {len(numbers)} of {self.source!r}\n"
                    f"{loader.skips.table()}"
                )

    def check_labels(self, names: Sequence[str]) -> None:
        """Refuses a source with classes that the stream's has not.

        Raises:
            ValueError: with the first ten of them.
        """
        if strangers := [name for name in names if self.labels and name not in self.labels]:
            raise ValueError(
                choices.listed(
                    f"{self.source!r} has {len(strangers)} classes that the stream {self.like!r}"
                    " has not, so no prediction can be right:",
                    strangers,
                )
            )

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the metrics of `score`; none where there is no truth, or a record too few."""
        lines, unused = self._predicted(apply, params)
        text = "".join(f"{to_json(line)}\n" for line in lines)
        stem = f"{self.place.name}-{self.place.step}"
        folder = None
        if self.place.folder is not None and self.passes.processes.index == 0:
            folder = self.place.folder / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{stem}.jsonl", text)
            text = (folder / f"{stem}.jsonl").read_bytes().decode()
        if unused.count and self.every_record:
            _log.warning(
                "%s: no score and nothing for a server: %d of %d records of %s cannot be used, and"
                " the rest would be another number. The first: %s",
                *(self.place.name, unused.count, unused.count + len(lines), self.source),
                "; ".join(unused.named[:_NAMED]),
            )
            return
        if folder is not None:
            self.submit(lines, folder, stem)
        lines = list(map(of_fields, of_text(text)))
        if untold := [line.id for line in lines if line.truth is None]:
            self._unscored(lines, untold)
            return
        scored = self.score(lines)
        notes = list(scored.notes)
        notes += [f"{unused.count} records could not be used"] if unused.count else []
        for note in notes:
            _log.warning("%s on %s: %s", self.place.name, self.source, note)
        notes += [CHOSEN] if self.place.chooses else []  # for whoever reads the file later
        report = dataclasses.replace(scored, notes=notes).report(self.seed)
        if folder is not None:
            about = {"source": self.source, "step": self.place.step, **report}
            write_whole(folder / f"{stem}.json", json.dumps(about, indent=1))
        yield from metrics_of(scored, report)

    def _unscored(self, lines: Sequence[Line], untold: Sequence[Any]) -> None:
        """Says why there is no score: a part of the examples would be another number."""
        if len(untold) == len(lines):
            _log.info(
                "%s: %d predictions for %s are written; it has no labels, so they are not scored",
                *(self.place.name, len(lines), self.source),
            )
            return
        _log.warning(
            "%s: %d of %d records of %s have no usable label (the first is %r), so none of the"
            " predictions is scored",
            *(self.place.name, len(untold), len(lines), self.source, untold[0]),
        )

    def _predicted(self, apply: base.Apply, params: Any) -> tuple[list[Line], "_Unused"]:
        """The lines of all processes in the order of the source, and which records have none."""
        loader, processes = self._loader(), self.passes.processes
        total = min(loader.records, self.num_examples or loader.records)
        size = self.batch_size or self.streams[self.like]["batch_size"]
        size += -size % self.passes.shards
        own, held = [], []
        for example in loader.examples(processes.part(total), np.random.default_rng):
            self.passes.progress()
            held.append(example)
            if len(held) == size:
                own += self._lines(apply, params, held, size, loader.source)
                held = []
        if held:
            own += self._lines(apply, params, held, size, loader.source)
        if loader.skips.lossy:
            _log.warning("%s", loader.skips.table())
            self.passes.lossy[self.source] = loader.skips.line()
        gathered = processes.gather_values(list(map(to_json, own)))
        found = [of_fields(json.loads(line)) for line in gathered]
        named = processes.gather_values(loader.skips.named)
        if not found:
            raise ValueError(f"no usable record in {self.source!r}\n{loader.skips.table()}")
        return found, _Unused(total - len(found), named)

    def _lines(self, apply, params, examples, size, source) -> Iterator[Line]:
        batch = padded(stack([example.arrays for example in examples]), size)
        found = self.ask(apply, params, batch)
        found = {name: np.asarray(rows) for name, rows in found.items()}
        for row, example in enumerate(examples):
            yield self.line(example, {name: rows[row] for name, rows in found.items()}, source)

    def _loader(self) -> Loader:
        entry = Entry.of(self.like, self.streams[self.like])
        known = pipelines.options_of(pipelines.load(entry.pipeline))
        fixed = {"augment": "none", "truth": "unused", "num_masked": 0, "mask_rate": 0.0}
        fixed = {name: value for name, value in fixed.items() if name in known}
        entry = dataclasses.replace(
            entry,
            source=self.source,
            weights=None,
            max_skip=1.0,
            batch_size=1,
            groups=None,
            options={**entry.options, **fixed, **self.options},
        )
        return Loader(f"evaluation on {self.source}", entry, seed=0, tokenizer=self.tokenizer)


class _Unused(NamedTuple):
    """Records without a prediction: how many, and the first of them, with why."""

    count: int
    named: Sequence[str]


def metrics_of(scored: Scored, report: Mapping[str, Any]) -> Iterator[base.Metric]:
    """The metrics of a score and its report; the error is a quarter of the interval, about."""
    for name, statistic in scored.statistics.items():
        low, high = report["metrics"][name]["ci95"]
        yield base.Metric(
            name,
            report["metrics"][name]["value"],
            scored.chance.get(name),
            scored.chance_is,
            (high - low) / _TO_ERROR,
            statistic.unit,
            statistic.better,
        )


def best_label(logits: np.ndarray, labels: Sequence[str]) -> str | None:
    """The name of the class with the highest of the logits f[C]; None if one is not finite."""
    best = best_labels(logits, labels, 1)
    return best[0] if best else None


def best_labels(logits: np.ndarray, labels: Sequence[str], count: int) -> list[str]:
    """The names of the classes with the highest logits, best first; none if one is not finite."""
    if not np.isfinite(logits).all():
        return []
    best = np.argsort(-logits, kind="stable")[:count]
    return [str(labels[k]) if labels else str(k) for k in best]


def number(value: Any) -> float | None:
    """A float, or None where JSON has no number for it."""
    return float(value) if math.isfinite(value) else None
