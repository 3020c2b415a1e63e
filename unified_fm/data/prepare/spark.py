"""Converts by Apache Spark: the same shards, written by its executors.

What `beam` says holds here: an element is the number of a shard, to write one twice is to write the
same bytes, and every executor sees the source and the folder under the same paths.
"""

import functools
import os
import sys
from collections.abc import Sequence

from pyspark.sql import SparkSession  # pyright: ignore[reportMissingImports]

from unified_fm.data.prepare import shard
from unified_fm.data.prepare.job import Job, WorkerFailed

_MASTER = "spark.master"


def run(job: Job, *, workers: int = 1, options: Sequence[str] = ()) -> None:
    """Writes the shards; their accounts are then in their files.

    Args:
        job: the conversion.
        workers: threads of a Spark on this machine, which is what is used where the options name no
            `spark.master`.
        options: settings of Spark: "--spark.master=spark://HOST:7077".

    Raises:
        ValueError: an option that is no setting of Spark.
        WorkerFailed: with what an executor raised; shards that were done stay.
    """
    settings = {_MASTER: f"local[{workers}]"}
    for option in options:
        name, equals, value = option.removeprefix("--").partition("=")
        if not equals or not name.startswith("spark."):
            raise ValueError(f"{option!r} is no setting of Spark: --spark.NAME=VALUE")
        settings[name] = value
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else some python3 of the path
    builder = SparkSession.builder.appName(f"unified-fm data convert {job.name}")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    try:
        numbers = session.sparkContext.parallelize(range(job.shards), job.shards)
        numbers.map(functools.partial(_write, job)).collect()
    except Exception as error:  # of py4j, of pyspark: there is no common kind
        raise WorkerFailed(f"Spark: {error}") from error
    finally:
        session.stop()


def _write(job: Job, number: int) -> int:
    """The shard's number: what is known of it is in its account."""
    shard.write(job, number)
    return number
