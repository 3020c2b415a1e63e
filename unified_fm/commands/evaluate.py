"""Evaluates a checkpoint of a run: the command with `--config.mode=evaluate`."""

from collections.abc import Sequence
from typing import NoReturn

from unified_fm import main as command


def main(arguments: Sequence[str], prog: str) -> NoReturn:
    """Runs the command and ends the process with its exit status."""
    command.run([prog, *arguments, "--config.mode=evaluate"])
