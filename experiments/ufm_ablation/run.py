"""The UFM ablation, version 2: teachers, arms, evaluation and report, by one command.

    tools/env.sh python -m experiments.ufm_ablation.run --workdir=runs/ufm_ablation

Goes on where it was interrupted. `--change` changes every arm, as candidates of the gate need it:
`--change=model.encoder.width=24 --change=optimizer.lr=0.0015`. `--budget=short` tries all of it in
minutes, and shows nothing.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import grid, workers
from experiments.ufm_ablation import conclusions
from experiments.ufm_ablation.arms import CONFIG, arms
from unified_fm import files
from unified_fm.runtime import workdir as workdirs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("unified_fm").setLevel(logging.WARNING)
    chosen = arms(options.budget)
    work = grid.Grid(
        spec=f"{CONFIG}:short" if options.budget == "short" else CONFIG,
        arms={name: chosen[name] for name in options.arms or chosen},
        seeds=options.seeds or ([0, 1] if options.budget == "short" else range(8)),
        common=options.change,
        group=options.group,
        jobs=options.jobs,
        batches=options.workdir / "batches",
    )
    try:
        options.workdir.mkdir(parents=True, exist_ok=True)
        with workdirs.lock(options.workdir):
            found = work.run(options.workdir)
            report = conclusions.write(found, shows_nothing=options.budget == "short")
            files.write_whole(options.workdir / "report.md", report)
    except (ValueError, workdirs.Locked) as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/ufm_ablation"))
    parser.add_argument("--budget", default="full", choices=("full", "short"))
    parser.add_argument("--arms", nargs="+", choices=arms(), metavar="ARM", help=" ".join(arms()))
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="0 to 7")
    parser.add_argument("--group", type=int, default=8, help="seeds that are trained in one step")
    workers.add_argument(parser)
    parser.add_argument("--change", action="append", default=[], metavar="PATH=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
