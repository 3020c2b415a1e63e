"""Evaluates a checkpoint of a run.

    unified-fm evaluate --run=runs/nlvr2 --step=best --source=nlvr2:test1.json@data/nlvr2 --as=test
    unified-fm evaluate --config=quickstart --workdir=runs/quickstart

With `--run` the config is the one that the run has saved. Neither its training data nor what it
started from need be there, and no step is compiled. `--source` asks the evaluator that chose the
best step about other data, and calls that `--as`.
"""

from collections.abc import Sequence
from typing import NoReturn

from unified_fm import main as command


def main(arguments: Sequence[str], prog: str) -> NoReturn:
    """Runs the command and ends the process with its exit status."""
    command.run([prog, *given(arguments)])


def given(arguments: Sequence[str]) -> list[str]:
    """The arguments of `unified_fm.main` that these stand for."""
    step = "--step="
    told = [
        f"--config.evaluate.step={text.removeprefix(step)}" if text.startswith(step) else text
        for text in arguments
    ]
    return [*told, "--config.mode=evaluate"]
