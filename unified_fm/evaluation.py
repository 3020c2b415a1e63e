"""Evaluating a model in a run: the evaluators of the config, the table, the report."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import NamedSharding

from unified_fm import files, sharding, step
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.evaluators import base
from unified_fm.report import report
from unified_fm.report import table as results_table
from unified_fm.runtime.watchdog import Watchdog

_log = logging.getLogger(__name__)


class Evaluation:
    """The evaluators of a run."""

    def __init__(
        self,
        settings: Settings,
        workdir: Any,
        model: Any,
        mesh: Any,
        tokenizer: Any,
        dog: Watchdog,
    ):
        self._settings = settings
        self._workdir = epath.Path(workdir)
        self._apply = _watched(step.make_apply(model, place=_placed(mesh)), dog)
        self._dog = dog
        used = settings.evaluates
        self._evaluators = chosen.evaluators(settings, tokenizer) if used else {}
        self.results = base.Results([], {})

    def check(self) -> None:
        """Opens what the evaluators read and makes a batch of it, before the first step.

        Raises:
            ValueError: a source that cannot be read, with the evaluator's name.
        """
        for name, evaluator in self._evaluators.items():
            self._dog.progress(f"opening the data of the evaluator {name!r}")
            base.check(name, evaluator)

    def run(self, params: Any) -> dict[str, float]:
        """Runs all evaluators, prints the table, and returns {name: value}."""
        if not self._evaluators:
            return {}
        self.results = base.run_all(self._evaluators, self._apply, params)
        if jax.process_index() == 0:
            _log.info("\n%s\n", results_table.format_table(self.results.metrics))
        return {metric.name: float(metric.value) for metric in self.results.metrics}

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
                config=self._settings.plain(),
                metrics_path=local,
                results=self.results.metrics,
                examples=self.results.examples,
                facts=facts,
                records=records,
                title=self._workdir.name,
            )
            files.write_whole(target, page.read_bytes())
        _log.info("report: %s", target)


def _watched(apply, dog):
    """Every call is progress, and the compilation in it does not count."""

    def watched(fn, params, batch, rngs=None):
        with dog.held():
            return apply(fn, params, batch, rngs=rngs)

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
