"""Frozen features of a checkpoint on labelled pictures, beside chance and trivial baselines.

unified-fm probe --run=runs/xfm --sets=pets,dtd,cifar10
unified-fm probe --run=runs/xfm --source=folder:my/birds --methods=linear,knn,zero-shot
unified-fm probe --run=runs/xfm --source=folder:my/train --test=folder:my/test --standardise

  linear     CLIP's: logistic regression by L-BFGS, C swept on validation data, then all
  knn        the vote of the 20 nearest; nothing is chosen
  mlp5       X-FM's head of five layers, with the published rates of each set
  zero-shot  the class whose texts are nearest; with --rerank=5 the matching head has the last word

Nothing of the checkpoint is trained, no picture augmented. Features are kept in OUT/features, one
result of a method and a set after the other in OUT/results, its predictions before it is scored in
OUT/predictions; so the same command goes on where it was stopped, and makes anew only what has
changed. OUT/probe.json and OUT/probe.md have all of it.

Nothing is downloaded: tfds: sets must have been prepared, folder: sets lie below --data as
NAME/train/CLASS/*.jpg. A --source without --test is split by the hash of the ids: 10 % validation,
20 % test. --prompts=FILE gives names and templates of zero-shot (docs/probing.md).
"""

import argparse
import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from unified_fm.commands import _outputs
from unified_fm.data.source import open_source
from unified_fm.demo import packages
from unified_fm.inference.abilities import NotTrained
from unified_fm.inference.loading import load
from unified_fm.probing import cache, methods, page, prompts, results
from unified_fm.probing.asked import Asked
from unified_fm.probing.page import Line
from unified_fm.probing.probing import OfSet, Sources, Wanted
from unified_fm.probing.results import Result
from unified_fm.runtime import compiler
from unified_fm.tasks import probe_sets
from unified_fm.tasks.probe_sets import ProbeSet

_MISSING = (ValueError, OSError, packages.MissingPackage)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Measures what is missing; returns the exit status."""
    parser = _parser(prog)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        wanted = _wanted(options)
        opened = _opened(_rows(options))
        compiler.keep_programs()
        model = load(
            options.run,
            batch_size=options.batch_size,
            plugins=[name for name in options.plugins.split(",") if name],
        )
        folder, command = options.out, f"{parser.prog} {' '.join(given)}"
        lines = _measured(opened, Asked(model), wanted, folder, command)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except (NotTrained, TypeError, *_MISSING) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(page.text(lines))
    return 0


def _measured(
    opened: Sequence[tuple[ProbeSet, Sources]],
    asked: Asked,
    wanted: Wanted,
    folder: Path,
    command: str,
) -> dict[str, Line]:
    """Runs every set; the page is written after every result."""
    for method in wanted.methods:
        asked.need("similarity" if method == methods.ZERO_SHOT else "encode_image")
    if methods.ZERO_SHOT in wanted.methods and wanted.options.rerank:
        asked.need("match")
    features, kept = cache.Cache(folder / "features"), results.Results(folder)
    facts = {"command": command, **asked.facts()}
    if methods.LINEAR in wanted.methods:
        as_they_are = "features taken as they are, as by CLIP"
        facts["linear"] = "features standardised" if wanted.options.standardise else as_they_are
    lines: dict[str, Line] = {}
    for number, (row, sources) in enumerate(opened, start=1):
        told = functools.partial(_tell, f"[{number}/{len(opened)} {row.name}]")
        of = OfSet(row, sources, asked, features, wanted, told)
        found: list[Result] = []
        for result in of.run(kept):
            found.append(result)
            lines[row.name] = Line(found, of.notes)
            page.write(folder, lines, facts)
        page.write(folder, lines, facts)
    _tell(f"{features.computed:,} pictures encoded;", str(folder / "probe.md"))
    return lines


def _opened(rows: dict[str, ProbeSet]) -> list[tuple[ProbeSet, Sources]]:
    """The sets that are there, with their sources.

    Raises:
        ValueError: one that was named is not there, or none is; with how to get each.
    """
    found, missing = [], []
    for name, row in rows.items():
        try:
            found.append((row, {spec: open_source(spec) for spec in row.sources}))
        except _MISSING as error:
            missing.append(f"{name} is not there: {error}")
    if missing and (len(rows) < len(probe_sets.SETS) or not found):
        raise ValueError("\n".join(missing))
    for text in missing:
        _tell("left out:", text)
    return found


def _rows(options: argparse.Namespace) -> dict[str, ProbeSet]:
    """The sets of the command line.

    Raises:
        ValueError: both or neither of --sets and --source, or no such set.
    """
    if bool(options.sets) == bool(options.source):
        raise ValueError("one of --sets=NAME,... and --source=SOURCE is needed")
    if options.sets:
        if options.test or options.validation or options.metric or options.name:
            raise ValueError("--test, --validation, --metric and --name go with --source")
        rows = probe_sets.chosen(options.sets)
        return {name: row.at(options.data) for name, row in rows.items()}
    row = ProbeSet(
        name=options.name or "own",
        train=options.source,
        validation=options.validation or "",
        test=options.test or "",
        metric=options.metric or probe_sets.ACCURACY,
    )
    return {row.name: row}


def _wanted(options: argparse.Namespace) -> Wanted:
    names = list(dict.fromkeys(options.methods.split(",")))
    for name in names:
        if name not in methods.METHODS:
            raise ValueError(f"--methods: no {name!r}; possible: {', '.join(methods.METHODS)}")
    if options.rerank < 0 or options.rerank == 1 or options.neighbours < 1:
        raise ValueError("--rerank is 0, or at least 2; --neighbours is at least 1")
    recipe = {name: getattr(options, name) for name in ("lr", "epochs")}
    return Wanted(
        methods=names,
        options=methods.Options(
            standardise=options.standardise,
            neighbours=options.neighbours,
            rerank=options.rerank,
            seed=options.seed,
        ),
        recipe={name: value for name, value in recipe.items() if value is not None},
        prompts=prompts.read(Path(options.prompts)) if options.prompts else {},
        baselines=not options.no_baselines,
    )


def _tell(*texts: str) -> None:
    print(*texts, file=sys.stderr, flush=True)


def _parser(prog: str | None) -> argparse.ArgumentParser:
    listed = "\n".join(
        f"  {row.name:<11} {row.metric:<15} {' '.join(row.sources)}"
        for row in probe_sets.SETS.values()
    )
    parser = argparse.ArgumentParser(
        prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"sets:\n{listed}",
    )
    add = parser.add_argument
    add("--run", required=True, help="workdir, RUN/checkpoints/STEP, or an exported folder")
    add("--sets", help="names by commas, or all: those of the list below that are there")
    add("--source", help="of your own pictures: folder:DIR, tfds:NAME:SPLIT, jsonl:FILE")
    add("--validation", help="source to choose C with; else a tenth of --source by hash")
    add("--test", help="source of the test; else a fifth of --source by hash")
    add("--metric", choices=probe_sets.METRICS, help="that counts (accuracy)")
    add("--name", help="of --source in the table and in --prompts (own)")
    add("--methods", default="linear,knn", help=f"of {', '.join(methods.METHODS)} (linear,knn)")
    add("--out", type=_outputs.local, default="runs/probe", help="folder (runs/probe)")
    add("--data", default="data", help="folder of the folder: sets (data)")
    add("--standardise", action="store_true", help="linear: features of deviation 1; CLIP: not")
    add("--neighbours", type=int, default=20, help="of knn (20)")
    add("--lr", type=float, help="of mlp5, in place of the set's")
    add("--epochs", type=int, help="of mlp5, in place of the set's")
    add("--seed", type=int, default=0, help="of mlp5 (0)")
    add("--prompts", help="zero-shot: JSON file of class names and templates")
    add("--rerank", type=int, default=0, help="zero-shot: best classes that are matched (0)")
    add("--no-baselines", action="store_true", help="without the trivial baselines")
    add("--batch-size", type=int, default=32, help="pictures that are encoded at once (32)")
    add("--plugins", default="", help="modules, by commas, whose plugins the run may name")
    return parser
