"""Trains a config: `python -m unified_fm.main` under the name of a verb."""

from collections.abc import Sequence
from typing import NoReturn

from unified_fm import main as command


def main(arguments: Sequence[str], prog: str) -> NoReturn:
    """Runs the command and ends the process with its exit status."""
    command.run([prog, *arguments])
