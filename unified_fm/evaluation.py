"""Evaluating a model in a run: the evaluators of the config, the table, the report."""

import functools
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import NamedSharding

from unified_fm import assembly, plugins, sharding, step
from unified_fm.evaluators import base
from unified_fm.report import report
from unified_fm.report import table as results_table
from unified_fm.runtime.watchdog import Watchdog
from unified_fm.runtime.workdir import whole_file

_log = logging.getLogger(__name__)


class Evaluation:
    """The evaluators of a run."""

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Any,
        program: step.Program,
        mesh: Any,
        tokenizer: Any,
        dog: Watchdog,
    ):
        self._config = config
        self._workdir = epath.Path(workdir)
        self._teachers = {name: t.model for name, t in program.teachers.members.items()}
        made = step.make_apply(program.model, place=_placed(mesh), teachers=self._teachers)
        self._apply = _watched(made, dog)
        self._dog = dog
        used = config["evaluate"]["every"] or config["evaluate"]["at_end"]
        used = used or config["mode"] == "evaluate"
        self._evaluators = assembly.evaluators(config, tokenizer) if used else {}
        self.results = base.Results([], {})

    def check(self) -> None:
        """Opens what the evaluators read and makes a batch of it, before the first step.

        Raises:
            ValueError: a source that cannot be read, or a teacher that is not there, with the
                evaluator's name.
        """
        for name, evaluator in self._evaluators.items():
            for teacher in getattr(evaluator, "teachers", ()):
                self._check_teacher(name, teacher)
            self._dog.progress(f"opening the data of the evaluator {name!r}")
            base.check(name, evaluator)

    def run(self, params: Any, teacher_params: Mapping[str, Any]) -> dict[str, float]:
        """Runs all evaluators, prints the table, and returns {name: value}.

        Args:
            params: of the model.
            teacher_params: {name: tree} of the run's teachers, "ema" among them if there is one.
        """
        if not self._evaluators:
            return {}
        apply = functools.partial(self._apply, known=teacher_params)
        self.results = base.run_all(self._evaluators, apply, params)
        if jax.process_index() == 0:
            _log.info("\n%s\n", results_table.format_table(self.results.metrics))
        return {metric.name: float(metric.value) for metric in self.results.metrics}

    def _check_teacher(self, name: str, teacher: str) -> None:
        if teacher == step.EMA:
            if self._config["ema"] is None:
                raise ValueError(
                    f"evaluator {name!r} asks the averaged parameters (target='ema'), and "
                    "config.ema is None: set it, or leave that objective out of the evaluator"
                )
        elif self._teachers.get(teacher) is None:
            cached = teacher in self._teachers
            why = (
                "was read from a cache, which knows the training data only"
                if cached
                else f"is none of this run; {plugins.possible(teacher, self._teachers)}"
            )
            raise ValueError(
                f"evaluator {name!r} asks the teacher {teacher!r}, which {why}: give it as path or "
                "init, or leave that objective out of the evaluator's streams"
            )

    def write_report(
        self,
        metrics_path: Any,
        facts: Mapping[str, Any],
        records: Mapping[str, str] | None = None,
    ) -> None:
        """Writes report.html into the workdir, with the results of the last `run`.

        Args:
            metrics_path: of metrics.jsonl.
            facts: short lines for the head.
            records: {stream: its used and skipped records in one line}.
        """
        if jax.process_index():
            return
        device = jax.devices()[0]
        facts = {**facts, "devices": f"{jax.device_count()} x {device.device_kind}"}
        target = self._workdir / "report.html"
        with tempfile.TemporaryDirectory() as folder:  # a bucket is no place to write bit by bit
            local = Path(folder) / "metrics.jsonl"
            local.write_text(metrics_path.read_text() if metrics_path.exists() else "")
            page = Path(folder) / "report.html"
            report.write_report(
                page,
                config=self._config,
                metrics_path=local,
                results=self.results.metrics,
                examples=self.results.examples,
                facts=facts,
                records=records,
                title=self._workdir.name,
            )
            with whole_file(target) as file:
                file.write_text(page.read_text(encoding="utf-8"))
        _log.info("report: %s", target)


def _watched(apply, dog):
    """Every call is progress, and the compilation in it does not count.

    `known` has the parameters of all teachers, of which an evaluator names those that it asks.
    """

    def watched(fn, params, batch, rngs=None, teachers=(), known=None):
        asked = {name: known[name] for name in teachers}
        with dog.held():
            return apply(fn, params, batch, rngs=rngs, teacher_params=asked)

    return watched


def _placed(mesh: Any):
    """Puts a batch on the mesh: rows split where the mesh divides them, whole elsewhere."""
    parts = sharding.batch_shards(mesh)

    def place(batch):
        def put(leaf):
            split = getattr(leaf, "ndim", 0) and leaf.shape[0] % parts == 0
            spec = sharding.BATCH if split and jax.process_count() == 1 else None
            where = sharding.replicated(mesh) if spec is None else NamedSharding(mesh, spec)
            return jax.device_put(leaf, where)

        return jax.tree.map(put, batch)

    return place
