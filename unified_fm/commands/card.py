"""A model card for a run or an exported folder: README.md, as the Hugging Face Hub reads it.

unified-fm card --run=runs/quickstart --scoreboard=runs/scoreboard --license=cc-by-sa-4.0
unified-fm card --run=runs/nlvr2 --out=README.md

Sizes, data with hashes, scores with intervals and chance, what it cannot do, how to do it again:
all from the checkpoint, the run's own scores and the scoreboard, which must have started from this
checkpoint. Numbers of papers are labelled so. Nothing is asked of a network. A later card replaces
an earlier one, but no README.md of somebody's own; --out=- prints it.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_fm import buckets
from unified_fm.inference import places
from unified_fm.inference.loading import load
from unified_fm.model_card import data, evaluated, page
from unified_fm.model_card.about import LIBRARY, UNSTATED, About
from unified_fm.model_card.metadata import HUB_TASKS
from unified_fm.scoreboard import fit, tasks
from unified_fm.scoreboard import page as scoreboard
from unified_fm.scoreboard.row import Row

_BOARD = "scoreboard.json"


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line and writes the card; returns the exit status."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        about = _about(options)
        if options.out == "-":
            print(page.card(about), end="")
            return 0
        place = options.out or f"{options.run}/README.md"
        buckets.refuse_output(place)
        out = Path(place)
        page.write(out, about)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out}")
    return 0


def _about(options: argparse.Namespace) -> About:
    """The facts of the run.

    Raises:
        ValueError, OSError: nothing that can be loaded, or a scoreboard of another checkpoint.
    """
    names = [name for name in options.plugins.split(",") if name]
    place = places.find(options.run, names)
    info = load(options.run, plugins=names).info
    config = place.config if place.kind == places.RUN else {}
    step = info.get("step")
    rows, board = measured(options.scoreboard, options.run) if options.scoreboard else ([], None)
    return About(
        name=options.name or Path(options.run).resolve().name,
        info=info,
        config=config,
        used=data.used(config),
        evaluated=[] if step is None else evaluated.of_run(Path(place.folder), step),
        rows=rows,
        board=board or scoreboard.Facts(),
        hub_tasks=hub_tasks(),
        license=options.license,
        language=options.language,
        library="transformers" if place.kind == places.FOREIGN else LIBRARY,
    )


def measured(given: str, init: str) -> tuple[list[Row], scoreboard.Facts]:
    """The rows of a scoreboard that started from `init`.

    Args:
        given: its folder, or its scoreboard.json.
        init: a run, a checkpoint or a folder.

    Raises:
        ValueError: it is none, or it started from something else.
        OSError: it is not there.
    """
    path = Path(given)
    rows, board = scoreboard.read(path / _BOARD if path.is_dir() else path)
    began = {one for row in rows if row.pre_trained for one in row.hashes.get("checkpoint", ())}
    here = fit.checkpoint_hash(init)
    if began - {here}:
        raise ValueError(
            f"{path} is about fine-tunings from the checkpoint {', '.join(sorted(began))}, and "
            f"{init} is {here}: its numbers say nothing about this one. `unified-fm scoreboard "
            f"--init={init}` measures it"
        )
    return rows, board


def hub_tasks() -> Mapping[str, str]:
    """{task of a scoreboard's row: what the Hub calls it, or the name of its config}."""
    found: dict[str, Any] = {}
    for task in tasks.TASKS.values():
        family = task.config.rpartition("/")[2].partition(":")[0]
        found[task.name] = HUB_TASKS.get(family, family)
    return found


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="workdir, RUN/checkpoints/STEP, or an exported folder")
    add(
        "--scoreboard", default="", help="folder of `unified-fm scoreboard`, or its scoreboard.json"
    )
    add("--out", default="", help="file to write (RUN/README.md); - prints it")
    add("--name", default="", help="of the model (the name of the folder)")
    add("--license", default=UNSTATED, help=f"identifier of the Hub, as you state it ({UNSTATED})")
    add("--language", default="", help="of the texts, as the Hub abbreviates it: en")
    add("--plugins", default="", help="modules, by commas, whose plugins the run may name")
    return parser
