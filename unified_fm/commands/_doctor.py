"""`unified-fm data check` and `data show`: which stream of which config reads a source, and where
the pages go."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_fm.commands import _outputs, _settings
from unified_fm.config import durations
from unified_fm.config.settings import Settings

MFU = 0.4  # of a chip's peak, by which hours on chips are said
_CHECK = """Reads SOURCE once, as a training run does, and says what is wrong with it.

    unified-fm data check jsonl:my/pairs.jsonl
    unified-fm data check jsonl:my/pairs.jsonl --config=xfm_base --tokenizer=data/roberta-base
    unified-fm data check demo:scenes/train --config=quickstart --stream=regions --out=check/scenes
    unified-fm data check webdataset:shards --config=xfm_base:chips=256 --chips=256 --chip=v5e
    unified-fm data check coco:test.json@images --against=jsonl:my/pairs.jsonl    # seen before?

The readers, rules and random numbers are those of the stream in the first epoch, so the counts are
those of the run's log. Without --config the pipeline that fits the first records reads them, with
its defaults. OUT/check.json has the numbers and names every record, OUT/check.html shows pictures
of what is refused. --against reads another source, too, and says which pictures are in both: they
are in OUT/against.jsonl. Interrupted, the same command goes on where it stopped.

Exit status: 0 fine; 1 something would stop a run or mar it; 2 refused, as a run would be;
130 interrupted.
"""
_SHOW = """Writes a page with what the model will receive of some records of SOURCE.

    unified-fm data show jsonl:my/regions.jsonl --config=xfm_base --config.tokenizer=bytes
    unified-fm data show folder:my/pictures --config=ufm_base --stream=image --out=page/show.html

Pictures after augmentation with hidden patches and boxes, pieces of texts with what masking makes
of them, shapes of the batch; as the run sees them in its first epochs.
"""


def add(commands: Any) -> None:
    """Adds the parsers of both to those of `unified-fm data`."""
    for name, about in (("check", _CHECK), ("show", _SHOW)):
        made = commands.add_parser(name, help=about.splitlines()[0], description=about)
        _settings.add(made, required=name == "show")
        made.add_argument("source", metavar="SOURCE", help="as in a config: jsonl:FILE, ...")
        made.add_argument("--stream", default="", help="of the config; else the one that fits")
        made.add_argument("--tokenizer", default="", help="instead of the config's")
        if name == "check":
            made.add_argument(
                "--out", type=_outputs.local, default=Path("check"), help="folder (check)"
            )
            made.add_argument("--jobs", type=_count, help="processes, one a core; 0: this one")
            made.add_argument("--limit", type=_count, default=0, help="records to read; 0: all")
            made.add_argument(
                "--chips", type=_count, default=0, help="for hours of an epoch on them"
            )
            made.add_argument("--chip", default="v5e", help="as `unified-fm plan` names it (v5e)")
            made.add_argument(
                "--against", metavar="SOURCE", help="say which pictures this one has, too"
            )
            made.add_argument("--quiet", action="store_true", help="no progress")
        else:
            page = Path("show.html")
            made.add_argument(
                "--out", type=_outputs.local, default=page, help="page to write (show.html)"
            )
            made.add_argument("--records", type=_count, default=8, help="to show (8)")
            made.add_argument("--draws", type=_count, default=2, help="epochs of each (2)")


def _count(text: str) -> int:
    """A whole number of at least 0. Raises ArgumentTypeError: it is none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace, changes: list[str]) -> int:
    """Runs `check` or `show`; returns the exit status.

    Raises:
        ValueError, OSError, ModuleNotFoundError: refused, with the reason.
    """
    settings = None
    if options.config is not None:
        settings = _settings.load(parser, options, changes)
    elif changes:
        parser.error(f"--config.{changes[0]} changes a config; give one with --config=...")
    if options.corpus == "check" and options.chips and settings is None:
        parser.error("--chips says hours of a config's steps; give one with --config=...")
    return (_check if options.corpus == "check" else _show)(options, settings)


def _check(options: argparse.Namespace, settings: Settings | None) -> int:
    from unified_fm.data.loader import cores
    from unified_fm.doctor import check, pool

    processes = cores() if options.jobs is None else options.jobs
    step = 0.0
    if settings is not None and options.chips:  # refused before anything is read
        step = seconds_of_step(settings, options.chips, options.chip)

    name = f"{options.chips} x {options.chip} at {100 * MFU:.0f} % of the peak"

    def speed(made: Mapping[str, Any]) -> dict[str, Any]:
        said = on_cores(made["speed"], processes)
        return said | ({name: on_chips(made["speed"], step)} if step else {})

    try:
        outcome = check.check(
            _job(options, settings, limit=options.limit),
            options.out,
            processes=processes,
            lengths=settings is not None or bool(options.tokenizer),
            configured=settings is not None,
            speed=speed,
            other=_other(options.against),
            quiet=options.quiet,
        )
    except pool.Stopped as stopped:
        print(f"{stopped}; the same command goes on")
        return 130
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return 130
    print("\n".join(check.lines(outcome)))
    print(f"wrote {options.out / 'check.json'} and {options.out / 'check.html'}")
    return outcome.status


def _other(source: str | None) -> Any:
    """How the source is read whose pictures are compared; its texts do not count."""
    from unified_fm.doctor import choosing

    return None if source is None else choosing.job_of(source, {})


def _show(options: argparse.Namespace, settings: Settings | None) -> int:
    from unified_fm.doctor import preview
    from unified_fm.doctor.reading import Reading

    reading = Reading(_job(options, settings))
    loader = reading.loader
    facts = {
        "config": options.config,
        "stream": f"{reading.job.stream} ({reading.job.entry.pipeline})",
        "records": f"{loader.records:,}",
        "of a batch": f"{loader.slots:,}",
        "tokenizer": f"{reading.job.tokenizer} ({reading.tokenizer.vocab_size:,} ids)",
    }
    preview.write(options.out, reading, records=options.records, draws=options.draws, facts=facts)
    shapes: Sequence[tuple[str, str]] = list(preview.shapes(loader.spec()))
    print("\n".join(f"{name:<18}  {shape}" for name, shape in shapes))
    print(f"wrote {options.out}")
    return 0


def _job(options: argparse.Namespace, settings: Settings | None, limit: int = 0) -> Any:
    """What is to be read; the demo corpus is made if the config asks for it.

    Raises:
        ValueError, OSError: no such source, stream or tokenizer.
    """
    from unified_fm.data import tokenizer as tokenizers
    from unified_fm.doctor import choosing

    streams, seed, tokenizer = {}, 0, options.tokenizer or "bytes"
    if settings is not None:
        from unified_fm import main as command

        command.prepare_data(settings)
        streams = {name: entry.plain() for name, entry in settings.streams.items()}
        for name in durations.staged(settings):  # in steps that nobody knows before a run
            streams[name]["weights"] = durations.even(settings, name)
        seed, tokenizer = settings.seed, options.tokenizer or settings.tokenizer
    try:
        tokenizers.load(tokenizer)
    except FileNotFoundError as error:
        raise ValueError(
            f"{error}. --tokenizer=PATH takes another one; --tokenizer=bytes shows all but the"
            " lengths of texts"
        ) from error
    return choosing.job_of(
        options.source,
        streams,
        seed=seed,
        tokenizer=tokenizer,
        stream=options.stream,
        limit=limit,
    )


def seconds_of_step(settings: Settings, chips: int, name: str) -> float:
    """What a step takes on chips that reach `MFU` of their peak.

    Args:
        settings: of the run; its batches are those of all chips.
        chips: how many.
        name: of their kind.

    Raises:
        ValueError: no such kind.
    """
    from unified_fm.bench import flops
    from unified_fm.planning import chips as known

    peak = known.chip(name).flops
    return flops.total(flops.of_step(settings)).necessary / (chips * peak * MFU)


def on_cores(speed: Mapping[str, Any], processes: int) -> dict[str, float]:
    """Hours of an epoch where several processes read at once; nothing for one.

    Args:
        speed: of the check.
        processes: how many.
    """
    if processes < 2:
        return {}
    hours = speed["hours of one core for an epoch"] / processes
    return {f"hours of {processes} cores for an epoch": float(f"{hours:.3g}")}


def on_chips(speed: Mapping[str, Any], step: float) -> dict[str, float]:
    """What an epoch takes with steps of so many seconds, and the cores that feed them.

    Args:
        speed: of the check.
        step: seconds.
    """
    said = {
        "seconds of a step": float(f"{step:.3g}"),
        "hours for an epoch": float(f"{step * speed['batches of an epoch'] / 3600:.3g}"),
    }
    if rate := speed["records a second of one core"]:
        needed = speed["records of a batch"] / step / rate
        said["cores that keep up with this stream"] = round(needed, 1)
    return said
