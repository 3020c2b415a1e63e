"""The X-FM ablation: gate, teachers, arms, evaluation and report, by one command.

    tools/env.sh python -m experiments.xfm_ablation.run --workdir=runs/xfm_ablation

Goes on where it was interrupted. `gate` behind the name of the module ends after the gate, which
says how many seeds are counted. Without `--arms` the arms of which the rules speak are run, and the
report decides nothing before they have all seeds. `--publish` writes the outcome beside this file,
too. `--budget=short` tries all of it but the gate in minutes, and shows nothing.
"""

import argparse
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import bigram, grid, workers
from experiments.xfm_ablation import gate as gates
from experiments.xfm_ablation import report
from experiments.xfm_ablation.arms import COUNTED, arms, spec
from experiments.xfm_ablation.gate import Gate
from unified_fm import files
from unified_fm.runtime import workdir as workdirs

HERE = Path(__file__).parent
_PLACES = ("--workdir", "--batches", "--gate")  # options that name places of a machine
COMMAND = "tools/env.sh python -m experiments.xfm_ablation.run --workdir=runs/xfm_ablation"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("unified_fm").setLevel(logging.WARNING)
    if options.publish and options.budget == "short":
        print("--budget=short shows nothing, so there is nothing to publish", file=sys.stderr)
        return 1
    try:
        options.workdir.mkdir(parents=True, exist_ok=True)
        with workdirs.lock(options.workdir):
            print(_run(options, sys.argv[1:] if arguments is None else arguments))
    except (ValueError, workdirs.Locked) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Runs what is missing; returns what is to be said."""
    short = options.budget == "short"
    gate = None
    if options.what == "gate" or not short:
        gate = _gate(options, options.workdir / "gate.json" if short else options.gate)
    if gate is not None and options.what == "gate":
        return "\n".join(gates.table(gate))
    # A short budget has no gate, and students of one teacher alone.
    seeds = [0, 2] if gate is None else range(gate.n)
    work = _grid(options, options.arms or COUNTED, options.seeds or seeds)
    found = work.run(options.workdir)
    if not short:
        bigram.add(options.workdir / "results.json", found, work.settings({}))
    said = dict(command=_command(arguments), shows_nothing=short)
    text = report.publish(options.workdir, found, gate, **said)
    if options.publish:
        files.write_whole(HERE / "results.json", (options.workdir / "results.json").read_bytes())
        report.publish(HERE, found, gate, **said)
    return text


def _command(arguments: Sequence[str]) -> str:
    """The command line, with the folder that the README names in place of one of a machine."""
    words = iter(arguments)
    kept = []
    for word in words:
        if word in _PLACES:
            next(words, None)
        elif not word.startswith(tuple(f"{place}=" for place in _PLACES)):
            kept.append(word)
    return shlex.join([*COMMAND.split(), *kept])


def _gate(options: argparse.Namespace, path: Path) -> Gate:
    """What gate.json says; if it is not there, the gate is run, and it is written.

    Raises:
        ValueError: it is of another number of steps.
    """
    steps = _steps(options)
    if not path.exists():
        folder = options.workdir / "gate"
        folder.mkdir(exist_ok=True)
        seeds = gates.SEEDS[:2] if options.budget == "short" else gates.SEEDS
        found = _grid(options, gates.ARMS, seeds).run(folder)
        said = {**dataclasses.asdict(gates.decide(found)), **_facts(found, seeds), "steps": steps}
        files.write_whole(path, json.dumps(said, indent=1) + "\n")
    told = json.loads(path.read_text(encoding="utf-8"))
    if told["steps"] != steps:
        raise ValueError(
            f"{path} is of {told['steps']} steps, and {steps} are asked for: give another --gate, "
            "which is made if it is not there"
        )
    return Gate(**{field.name: told[field.name] for field in dataclasses.fields(Gate)})


def _facts(found: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Whence the gate's numbers are, beside what it decided."""
    entry = found["arms"][gates.ARMS[0]]["seeds"][str(seeds[0])]
    return {"seeds": list(seeds), **{key: entry[key] for key in ("commit", "device", "jax")}}


def _steps(options: argparse.Namespace) -> int:
    return grid.Grid(spec=_spec(options), arms={}, seeds=[]).settings({}).total_steps


def _spec(options: argparse.Namespace) -> str:
    return spec(options.budget, options.steps)


def _grid(options: argparse.Namespace, chosen: Sequence[str], seeds: Sequence[int]) -> grid.Grid:
    known = arms(options.budget, options.steps)
    return grid.Grid(
        spec=_spec(options),
        arms={name: known[name] for name in chosen},
        seeds=seeds,
        group=options.group,
        jobs=options.jobs,
        batches=options.batches or options.workdir / "batches",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="all", choices=("all", "gate"))
    parser.add_argument("--workdir", type=Path, default=Path("runs/xfm_ablation"))
    parser.add_argument("--budget", default="full", choices=("full", "short"))
    names = ", ".join(name for name in arms() if name not in COUNTED)
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=arms(),
        metavar="ARM",
        help=f"{', '.join(COUNTED)}; of no rule: {names}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="as the gate says")
    parser.add_argument("--steps", type=int, default=1500, help="of every run (1500)")
    parser.add_argument("--group", type=int, default=3, help="seeds that are trained in one step")
    parser.add_argument(
        "--gate", type=Path, default=HERE / "gate.json", help="what the gate has decided"
    )
    parser.add_argument(
        "--batches",
        type=Path,
        help="a folder for the batches of each seed, which are made once for all arms, about 1 GB "
        "for 1,500 steps; they may be removed at any time (default: in the workdir)",
    )
    parser.add_argument(
        "--publish", action="store_true", help="write results, report and figures beside this file"
    )
    workers.add_argument(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
