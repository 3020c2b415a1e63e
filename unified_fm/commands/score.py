"""Scores predictions against official files: no model and no device; JSON on standard output.

unified-fm score --task=vqa --predictions=results.json --truth=v2_mscoco_val2014_annotations.json
unified-fm score --task=glue --predictions=CoLA.tsv --truth=data/glue/CoLA/dev.tsv
unified-fm score --task=refcoco --predictions=boxes.jsonl --truth=refcoco.jsonl --split=testA
unified-fm score --task=nlvr2 --predictions=ours.csv --truth=dev.json --against=theirs.csv

Every metric has its 95 % interval (bootstrap of 10,000 draws, 1,000 for captions, over images or
sets where examples share them; Wilson's for plain shares), and beside it what a guess reaches. With
--against the difference of two systems is drawn on the same examples. A prediction for every
example is needed, and none for others. What cannot be scored is a sentence on standard error, and
status 1.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from unified_fm.tasks._metrics.boxes import CONVENTIONS
from unified_fm.tasks._metrics.vqa import VERSIONS
from unified_fm.tasks._scoring.scorers import SCORERS


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line and prints the score; returns the exit status."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    scorer = SCORERS[options.task]
    given = {
        name: getattr(options, name)
        for name in ("split", "name", "version", "convention", "captions_per_image", "folds")
        if getattr(options, name) is not None
    }
    for name in given:
        if name not in scorer.options:
            possible = ", ".join(map(_flag, scorer.options)) or "none"
            parser.error(f"{_flag(name)} is no option of {options.task}; possible: {possible}")
    try:
        print(json.dumps(_score(options, given), indent=1))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def _score(options: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    score = SCORERS[options.task].score
    for path in (options.predictions, options.truth, options.against):
        if path is not None and not path.exists():
            raise FileNotFoundError(f"there is no {str(path)!r}")
    ours = score(options.predictions, options.truth, **given)
    found = {"task": options.task, **ours.report(options.seed)}
    found["files"] = {
        "predictions": _file(options.predictions),
        "truth": _file(options.truth),
    }
    if options.against is not None:
        theirs = score(options.against, options.truth, **given)
        found["files"]["against"] = _file(options.against)
        found["difference"] = ours.against(theirs, options.seed)
    return found


def _file(path: pathlib.Path) -> dict[str, str]:
    """What a number was taken of."""
    if path.is_dir():
        return {"folder": path.name}
    with open(path, "rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _wrapped(title: str, text: str) -> str:
    head = f"    {title:<13}"
    return textwrap.fill(text, 98, initial_indent=head, subsequent_indent=" " * len(head))


def _parser(prog: str | None) -> argparse.ArgumentParser:
    files = "\n".join(
        f"  {task}\n{_wrapped('predictions', one.predictions)}\n{_wrapped('truth', one.truth)}"
        for task, one in SCORERS.items()
    )
    parser = argparse.ArgumentParser(
        prog,
        description=__doc__,
        epilog=f"files of each task:\n{files}\n\nEvery task but retrieval takes its predictions as"
        ' .jsonl, too: {"id", "prediction"}.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--task", required=True, choices=list(SCORERS), metavar="TASK", help=", ".join(SCORERS))
    add("--predictions", required=True, type=pathlib.Path, metavar="FILE", help="see below")
    add("--truth", required=True, type=pathlib.Path, metavar="FILE", help="see below")
    add("--against", type=pathlib.Path, metavar="FILE", help="predictions of another system")
    add("--seed", type=int, default=0, help="of the draws (0)")
    add("--split", help="glue (a folder), refcoco, caption, retrieval: test, testA, dev, ...")
    add("--name", help="glue: the task, where its folder does not say it (cola, sst2, ...)")
    add("--version", choices=VERSIONS, help="vqa: of the official evaluator (2021)")
    add("--convention", choices=CONVENTIONS, help="refcoco: of overlaps (continuous)")
    add("--captions-per-image", type=int, metavar="N", help="retrieval: the first N (all)")
    add("--folds", type=int, metavar="N", help="retrieval: mean over folds of N images")
    return parser
