"""Converts by Apache Beam: the same shards, written by the workers of a direct, Flink or Dataflow
runner. (Spark is asked without Beam, see `spark`: Beam's runner for it is a server in Java that no
Python package brings.)

An element is the number of a shard, and a worker writes it as `shard.write` says: whatever Beam
does twice (a bundle that is tried again, a second attempt of a slow one) writes the same bytes
under the same name, whole. Source and folder are on a disk that every worker sees under the same
path, and the library is installed where they run.
"""

from collections.abc import Sequence
from typing import Any

import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
    PipelineOptions,
)

from unified_fm import choices
from unified_fm.data.prepare import shard
from unified_fm.data.prepare.job import Job, WorkerFailed

# What a user calls it -> Beam's name. Beam's own `DirectRunner` may start a server that it would
# have to download; this one is in the package.
RUNNERS = {
    "direct": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "flink": "FlinkRunner",
    "dataflow": "DataflowRunner",
}


def run(job: Job, runner: str, *, workers: int = 1, options: Sequence[str] = ()) -> None:
    """Runs the pipeline to its end; the accounts of the shards are then in their files.

    Args:
        job: the conversion.
        runner: of `RUNNERS`.
        workers: processes of the direct runner.
        options: of Beam, as on its command line ("--flink_master=HOST:8081").

    Raises:
        ValueError: an unknown runner, or an option that Beam does not know.
        WorkerFailed: with what a worker raised; shards that were done stay.
    """
    arguments = [f"--runner={RUNNERS[choices.check('runner', runner, RUNNERS)]}", *options]
    if runner == "direct" and workers > 1:
        arguments += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    found = PipelineOptions(arguments)
    unknown = [a for a in options if a.lstrip("-").partition("=")[0] not in found.get_all_options()]
    if unknown:
        raise ValueError(f"Beam has no option {', '.join(unknown)}")
    try:
        with beam.Pipeline(options=found) as pipeline:
            _ = (
                pipeline
                | "shards" >> beam.Create(range(job.shards))
                | "spread" >> beam.Reshuffle()
                | "write" >> beam.Map(_write, job=job)
            )
    except RuntimeError as error:
        raise WorkerFailed(f"Beam's {runner} runner: {error}") from error


def _write(number: int, job: Job) -> tuple[int, int]:
    """(shard, its records): what a runner may show; all else is in the account."""
    account: dict[str, Any] = shard.write(job, number)
    return number, account["records"]
