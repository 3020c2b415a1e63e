"""Evaluating a model in a run: the evaluators of the config, the table, the report."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from unified_fm import files, rules, setup, sharding, step, touched
from unified_fm.checkpoint import checksums
from unified_fm.evaluators import base
from unified_fm.report import report
from unified_fm.report import table as results_table
from unified_fm.runtime.watchdog import Watchdog

_log = logging.getLogger(__name__)


class Evaluation:
    """The evaluators of a run."""

    def __init__(
        self,
        ready: setup.Prepared,
        workdir: Any,
        dog: Watchdog,
        class_names: Mapping[str, Sequence[str]] | None = None,
    ):
        """Makes them.

        Args:
            ready: the run.
            workdir: of the run, in which evaluators may write.
            dog: is told of every progress.
            class_names: {stream: names of its classes}; see `assets.class_names`.
        """
        self._workdir = epath.Path(workdir)
        self._ready = ready
        self._apply = _Apply(ready.program, sharding.own_mesh(ready.mesh), dog)
        self._dog = dog
        self._evaluators = ready.evaluators()
        chooser = str(ready.settings.checkpoint.best).partition("/")[0]
        for name, evaluator in self._evaluators.items():
            evaluator.place.chooses = name == chooser
            evaluator.passes.progress = dog.progress
            evaluator.place.folder = self._workdir
            evaluator.place.class_names = class_names or {}
            evaluator.place.model = ready.settings.model
        self.results = base.Results([], {})

    def check(self) -> None:
        """Opens what the evaluators read and makes a batch of it, before the first step.

        Raises:
            ValueError: a source that cannot be read, with the evaluator's name.
        """
        for name, evaluator in self._evaluators.items():
            self._dog.progress(f"opening the data of the evaluator {name!r}")
            base.check(name, evaluator)

    @property
    def asks(self) -> bool:
        """Whether an evaluator asks the objectives of a stream, which may ask teachers."""
        return any(evaluator.asks for evaluator in self._evaluators.values())

    def run(
        self, params: Any, *, ema: Any = None, teacher_params: Any = None, at: int = 0
    ) -> dict[str, float]:
        """Runs all evaluators, prints the table, and returns {name: value}.

        With several processes each evaluates its part of the data on its own devices.

        Args:
            params: to be evaluated.
            ema: the averaged ones, for objectives that read them.
            teacher_params: of the run's teachers.
            at: the step of the parameters.
        """
        if not self._evaluators:
            return {}
        if self.asks:
            teachers = (teacher_params or {}).items()
            self._apply.ema = None if ema is None else self._own(ema)
            self._apply.teacher_params = {name: self._own(tree) for name, tree in teachers}
        for evaluator in self._evaluators.values():
            evaluator.place.step = at
        own = self._own(params)
        self.results = base.run_all(self._evaluators, self._apply, own)
        if jax.process_index() == 0:
            _log.info("\n%s\n", results_table.format_table(self.results.metrics))
            self._note_tests(own, at)
        return {metric.name: float(metric.value) for metric in self.results.metrics}

    def _note_tests(self, params: Any, at: int) -> None:
        """Writes down that test data were looked at, and says how often by now.

        What several evaluators say of the same data and parameters is one look.
        """
        looked: dict[str, list[str]] = {}
        for name, evaluator in self._evaluators.items():
            for number, source in enumerate(evaluator.sources):
                if touched.is_test("" if number else name, source):
                    looked.setdefault(source, []).append(name)
        if not looked:
            return
        checkpoint = checksums.sha256(rules.named_leaves(params))[:12]
        for source, names in looked.items():
            entry = {"name": ", ".join(names), "step": at, "checkpoint": checkpoint}
            times = touched.add(self._workdir, source, entry)
            often = "once" if times == 1 else f"{times} times"
            _log.info("test data %s: evaluated %s by this run (%s)", source, often, touched.FILE)

    def _own(self, params: Any) -> Any:
        return sharding.own_copy(self._ready.mesh, params, self._ready.settings.rules.sharding)

    def write_report(
        self,
        metrics_path: Any,
        facts: Mapping[str, Any],
        records: Mapping[str, str] | None = None,
    ) -> None:
        """Writes report.html into the workdir, with the results of the last `run`.

        Held-out sources of which something was left out are facts too.

        Args:
            metrics_path: of metrics.jsonl.
            facts: short lines for the head.
            records: {stream: its used and skipped records in one line}.
        """
        if jax.process_index():
            return
        device = jax.devices()[0]
        lossy = {s: n for e in self._evaluators.values() for s, n in e.passes.lossy.items()}
        facts = {**facts, **{f"held out, {source}": line for source, line in lossy.items()}}
        facts = {**facts, "devices": f"{jax.device_count()} x {device.device_kind}"}
        target = self._workdir / "report.html"
        with tempfile.TemporaryDirectory() as folder:  # a bucket is no place to write bit by bit
            local = Path(folder) / "metrics.jsonl"
            local.write_text(metrics_path.read_text() if metrics_path.exists() else "")
            page = Path(folder) / "report.html"
            report.write_report(
                page,
                config=self._ready.settings.plain(),
                metrics_path=local,
                results=self.results.metrics,
                examples=self.results.examples,
                facts=facts,
                records=records,
                title=self._workdir.name,
            )
            files.write_whole(target, page.read_bytes())
        _log.info("report: %s", target)


class _Apply(base.Apply):
    """The run's model for its evaluators. Every call is progress.

    The first one of a function with such shapes compiles, which may take as long as it likes.

    Attributes:
        ema, teacher_params: of the state that is evaluated.
    """

    ema: Any = None
    teacher_params: Any = None

    def __init__(self, program: step.Program, mesh: Mesh, dog: Watchdog):
        place = sharding.placing(mesh)
        self._apply = step.make_apply(program.model, place)
        self._outputs = step.make_outputs(program, place)
        self._predictions = step.make_predictions(program, place)
        self._dog = dog
        self._compiled: set[Any] = set()

    def __call__(self, fn: Any, params: Any, batch: Any, rngs: Any = None) -> Any:
        with self._watched(fn, (batch, rngs)):
            return self._apply(fn, params, batch, rngs=rngs)

    def outputs(self, stream: str, params: Any, batch: Any, rng: Any) -> Mapping[str, Any]:
        with self._watched(stream, (batch, rng)):
            return self._outputs(stream, params, self.ema, self.teacher_params, batch, rng)

    def predictions(
        self, stream: str, objective: str, params: Any, batch: Any
    ) -> Mapping[str, Any]:
        with self._watched((stream, objective), batch):
            return self._predictions(stream, objective, params, batch)

    @contextlib.contextmanager
    def _watched(self, fn: Any, arguments: Any) -> Iterator[None]:
        leaves, structure = jax.tree.flatten(arguments)
        key = fn, structure, tuple(map(jax.typeof, leaves))
        known = key in self._compiled
        self._compiled.add(key)
        self._dog.progress()
        with contextlib.nullcontext() if known else self._dog.held():
            yield
        self._dog.progress()
