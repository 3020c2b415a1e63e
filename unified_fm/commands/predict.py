"""Asks a checkpoint about images and texts: one JSON line on standard output for each item.

unified-fm predict --run=runs/quickstart --task=match --text="a pear" photos/*.jpg > out.jsonl
unified-fm predict --run=runs/quickstart --task=locate --text="a pear" photo.jpg
unified-fm predict --run=runs/quickstart --task=classify --labels=pear,camera photos/*.jpg
unified-fm predict --run=runs/quickstart --task=encode photos/*.jpg captions.jsonl > features.jsonl
unified-fm predict --run=runs/quickstart --task=fill_mask --text="a [MASK] and a ship" photo.jpg
unified-fm predict --run=runs/nlvr2 --task=classify dev.jsonl > predictions.jsonl
producer | unified-fm predict --run=runs/quickstart --task=match - > out.jsonl

A FILE is an image, or JSON Lines (.jsonl) with the fields of the task: `image` (a path below the
file's folder, or base64), `text`, `question`, `images`, `id`, ...; - is standard input, JSON Lines
with paths below this folder. --text goes with every item that has none.

  task       an item is                          a line has
  match      image, text                         probability
  locate     image, text                         box [x0, y0, x1, y1] in pixels, score
  encode     image, or text, or both             image, text: features of length 1
  fill_mask  text with [MASK], maybe an image    masks: [[word, probability], ...] of each
  classify   image with --labels; else what the  classes: [[name, probability], ...]
             task of the run is about
  answer     image, question                     answers: [[answer, probability], ...]
  caption    image                               caption

Every line has the item's `id`: the record's own, the path of an image, or FILE:LINE. An item that
cannot be used has `error` in place of the rest; it is named on standard error, and the exit status
is 1. Status 2: nothing was asked (no such run, or one that cannot do this: what it can is listed).
The programs that were compiled are kept in ~/.cache/unified_fm.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from unified_fm.inference.abilities import NotTrained
from unified_fm.inference.loading import load
from unified_fm.inference.questions import TASKS, Answers, Question, possible
from unified_fm.inference.records import Record, read
from unified_fm.runtime import compiler

_EVERY = 10.0  # seconds between two lines about the progress


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line, asks and prints; returns the exit status."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    compiler.keep_programs()
    labels = options.labels.split(",") if options.labels else None
    try:
        question = Question(task=options.task, text=options.text, labels=labels, k=options.k)
        for path in options.files:
            if path != "-" and not Path(path).exists():
                raise FileNotFoundError(f"there is no file {path!r}")
        model = load(
            options.run,
            batch_size=options.batch_size,
            plugins=[name for name in options.plugins.split(",") if name],
        )
    except (ValueError, TypeError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    try:
        answers = Answers(model, question)
    except NotTrained as error:
        print(f"{parser.prog}: {error}\nPossible with this one:", file=sys.stderr)
        for flags in possible(model):
            print(f"    {parser.prog} --run={options.run} {flags} FILE", file=sys.stderr)
        return 2
    return _ask(answers, options.files, options.batch_size)


def _ask(answers: Answers, files: Sequence[str], size: int) -> int:
    told, bad, began, last = 0, 0, time.monotonic(), time.monotonic()
    waiting: list[Record] = []

    def flush() -> None:
        nonlocal told, bad, last
        for record, answer in zip(waiting, answers.of(waiting), strict=True):
            print(json.dumps({"id": record.id, **answer}, ensure_ascii=False))
            told += 1
            if "error" in answer:
                bad += 1
                print(f"{record.place}: {answer['error']}", file=sys.stderr)
        sys.stdout.flush()
        waiting.clear()
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            print(f"{told:,} items, {bad:,} of them bad", file=sys.stderr, flush=True)

    for record in read(files):
        waiting.append(record)
        if len(waiting) == size:
            flush()
    if waiting:
        flush()
    seconds = time.monotonic() - began
    print(f"{told:,} items in {seconds:.1f} s, {bad:,} of them bad", file=sys.stderr)
    return 1 if bad else 0


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="workdir, RUN/checkpoints/STEP, or an exported folder")
    add("--task", required=True, choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    add("--text", help="of items that have none")
    add("--labels", help="classify: names of classes, by commas, instead of the run's own head")
    add("--k", type=int, default=5, help="words, classes or answers of an item (5)")
    add("--batch-size", type=int, default=32, help="items that are asked at once (32)")
    add("--plugins", default="", help="modules, by commas, whose plugins the run may name")
    add("files", nargs="+", metavar="FILE", help="images, .jsonl, or -")
    return parser
