"""The UFM ablation, version 2: teachers, arms, evaluation and report, by one command.

    tools/env.sh python -m experiments.ufm_ablation.run --workdir=runs/ufm_ablation

Goes on where it was interrupted. Size, length, rates and static weights are those of gate.json
beside this file, if it is there and `--no-gate` does not say otherwise. `--change` changes every
arm before its own changes: `--change=model.encoder.width=24`. `--budget=short` tries all of it in
minutes, without the gate, and shows nothing.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import bigram, grid, workers
from experiments.ufm_ablation import outcome, report
from experiments.ufm_ablation.arms import CONFIG, arms
from experiments.ufm_ablation.conclusions import LOOKS
from unified_fm import files
from unified_fm.runtime import workdir as workdirs

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("unified_fm").setLevel(logging.WARNING)
    short = options.budget == "short"
    if short and options.publish:
        print("--budget=short shows nothing, so there is nothing to publish", file=sys.stderr)
        return 1
    try:
        gate = None if short or options.no_gate else outcome.read()
        logging.info("%s", outcome.line(gate))
        work = _grid(options, gate)
        options.workdir.mkdir(parents=True, exist_ok=True)
        with workdirs.lock(options.workdir):
            # The gate has counted on the same text, unless what is asked about was changed.
            known = None if options.change or gate is None else gate.get("bigram")
            found = work.run(options.workdir)
            if not short:
                bigram.add(options.workdir / "results.json", found, work.settings({}), known)
            said: dict[str, Any] = dict(gate=gate, command=_command(arguments), shows_nothing=short)
            text = report.publish(options.workdir, found, **said)
            if options.publish:
                results = (options.workdir / "results.json").read_bytes()
                files.write_whole(HERE / "results.json", results)
                report.publish(HERE, found, **said)
    except (ValueError, workdirs.Locked) as error:
        print(error, file=sys.stderr)
        return 1
    print(text)
    return 0


def _grid(options: argparse.Namespace, gate: Mapping[str, Any] | None) -> grid.Grid:
    short = options.budget == "short"
    common, chosen = [], arms(options.budget)
    if gate is not None:
        common = outcome.changes(gate["width"], gate["layers"], gate["steps"])
        chosen = arms(rates=gate["rates"], static=gate["static_ratio"])
    seeds = range(2) if short else range(LOOKS[1] if options.extend else LOOKS[0])
    return grid.Grid(
        spec=f"{CONFIG}:short" if short else CONFIG,
        arms={name: chosen[name] for name in options.arms or chosen},
        seeds=options.seeds or seeds,
        common=[*common, *options.change],
        group=options.group,
        jobs=options.jobs,
        batches=options.workdir / "batches",
    )


def _command(arguments: Sequence[str] | None) -> str:
    """The command line, with the folder that the README names in place of one of this machine."""
    given = sys.argv[1:] if arguments is None else arguments
    words = iter(given)
    kept = []
    for word in words:
        if word == "--workdir":
            next(words, None)
        elif not word.startswith("--workdir="):
            kept.append(word)
    return shlex.join([*report.COMMAND.split(), *kept])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/ufm_ablation"))
    parser.add_argument("--budget", default="full", choices=("full", "short"))
    parser.add_argument("--arms", nargs="+", choices=arms(), metavar="ARM", help=" ".join(arms()))
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="(default: 0 to 7)")
    parser.add_argument("--extend", action="store_true", help="the second look: seeds 0 to 15")
    parser.add_argument("--group", type=int, default=8, help="seeds that are trained in one step")
    parser.add_argument("--no-gate", action="store_true", help="do not read gate.json")
    parser.add_argument(
        "--publish", action="store_true", help="write results, report and figures beside this file"
    )
    workers.add_argument(parser)
    parser.add_argument("--change", action="append", default=[], metavar="PATH=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
