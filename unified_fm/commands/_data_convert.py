"""Writes a source as shards that training reads at random: images as bytes, resized on the way.

unified-fm data convert karpathy:dataset_flickr30k.json:train@images --out=shards/flickr
unified-fm data convert SOURCE --out=DIR --shards=256 --resize=256
unified-fm data convert SOURCE --out=DIR --form=jsonl          # X-FM's published fields
unified-fm data convert SOURCE --out=DIR --runner=direct --workers=8    # by Apache Beam
unified-fm data convert SOURCE --out=DIR --runner=spark --spark.master=spark://HOST:7077

SOURCE is any source string (several joined by "+"). Interrupted, the same command goes on at the
shards that are not done; finished, it says so and writes nothing. `DIR/NAME.manifest.json` is
written last: counts, hashes, the fields, and what was skipped and why.

Exit status: 0 done; 1 refused, or not finished; 2 options that cannot be; 130 interrupted.
"""

import argparse
import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm.commands import _outputs
from unified_fm.data import identity
from unified_fm.data.boxes import FORMATS, FRAMES
from unified_fm.data.loader import cores
from unified_fm.data.prepare import local, manifest, shard
from unified_fm.data.prepare.job import FORMS, Job, WorkerFailed
from unified_fm.data.prepare.pack import Packing
from unified_fm.data.source import open_source
from unified_fm.data.sources.base import Source

# Runner -> the package that it needs.
_RUNNERS = {
    "local": "",
    "direct": "apache_beam",
    "spark": "pyspark",
    "flink": "apache_beam",
    "dataflow": "apache_beam",
}
_ABSENT = (
    "--runner={} needs {}, which is not installed: docs/data.md has the command, and why it goes"
    " into a folder of its own. Without --runner the same shards are written by this machine"
)


def run(arguments: Sequence[str], prog: str) -> int:
    """Runs the command line behind `data convert`; returns the exit status."""
    parser = _parser(prog)
    options, rest = parser.parse_known_args(arguments)
    if not 0 <= options.max_skip <= 1:
        parser.error(f"--max-skip={options.max_skip:g} is a share, 0 to 1")
    if options.workers < 0:
        parser.error(f"--workers={options.workers}; a number of processes, or 0 for one a core")
    if rest and options.runner in ("local", "direct"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    needed = _RUNNERS[options.runner]
    if needed and importlib.util.find_spec(needed) is None:
        print(_ABSENT.format(options.runner, needed), file=sys.stderr)
        return 1
    try:
        source = open_source(options.source)
        job = _job(options, source)
        found = manifest.begin(job)
        if found is not None:
            print(f"already done: {_said(job, found)}")
            return 0
        accounts = _write(job, options, rest)
        found = manifest.finish(
            job,
            accounts,
            class_names=source.class_names,
            left_out=source.problems,
            lost=source.lost,
            max_skip=options.max_skip,
        )
    except (ValueError, OSError, ModuleNotFoundError, manifest.Unfinished, WorkerFailed) as error:
        print("\n".join([str(error), *vars(error).get("__notes__", ())]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    lost = manifest.table(found)
    print(_said(job, found) + (f"\nskipped or dropped:\n{lost}" if lost else ""))
    return 0


def _job(options: argparse.Namespace, source: Source) -> Job:
    return Job(
        source=options.source,
        out=os.path.abspath(options.out),
        name=options.name,
        shards=min(options.shards, len(source)),
        records=len(source),
        identity=identity.of_source(source),
        form=options.form,
        packing=Packing(
            resize=options.resize,
            quality=options.quality,
            box_format=options.box_format,
            exif=options.exif,
        ),
    )


def _write(job: Job, options: argparse.Namespace, rest: Sequence[str]) -> list[dict[str, Any]]:
    """The accounts of all shards."""
    shown = not options.quiet
    if options.runner == "local":
        return local.run(job, workers=options.workers, max_skip=options.max_skip, progress=shown)
    workers = options.workers or cores()
    if options.runner == "spark":
        from unified_fm.data.prepare import spark  # an extra, as Beam is

        spark.run(job, workers=workers, options=rest)
    else:
        from unified_fm.data.prepare import beam  # an extra, in an environment of its own

        beam.run(job, options.runner, workers=workers, options=rest)
    found = (shard.account_of(job, number) for number in range(job.shards))
    return [account for account in found if account is not None]


def _said(job: Job, found: Mapping[str, Any]) -> str:
    stem = pathlib.Path(os.path.relpath(job.folder)) / job.name
    read = f"array_record:{stem}" if job.form == "array_record" else f"jsonl:{stem}-*.jsonl"
    skipped = sum(found["skipped"].values())
    return (
        f"{found['records']:,} of {job.records:,} records ({skipped:,} skipped) in {job.shards}"
        f" shards, {found['bytes'] / 1e6:,.1f} MB, hash {found['sha256'][:12]}\n"
        f"{job.manifest.name} has the rest; to be read as {read}"
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help='source string, as in a stream: "jsonl:FILE"')
    add("--out", required=True, type=_outputs.local, metavar="DIR", help="folder of the shards")
    add("--name", default="data", help="first part of their names (data)")
    add("--shards", type=int, default=256, help="how many, at most one a record (256)")
    add("--resize", type=int, default=0, help="longest shorter side of an image; 0: as it is (0)")
    add("--quality", type=int, default=95, help="of the JPEG of a resized image (95)")
    add("--form", default="array_record", choices=FORMS, help="jsonl: X-FM's fields, in text")
    add("--box-format", default="xywh", choices=FORMATS, help="of the boxes in SOURCE (xywh)")
    add("--exif", default="upright", choices=FRAMES, help="the image that they are in (upright)")
    add("--max-skip", type=float, default=0.01, help="share of records, of boxes, to lose (0.01)")
    add("--workers", type=int, default=0, help="processes on this machine; 0: one a core (0)")
    add(
        "--runner",
        default="local",
        choices=_RUNNERS,
        help="local: processes (default); else Beam or Spark, whose own options may follow",
    )
    add("--quiet", action="store_true", help="no progress bar")
    return parser
