"""Evaluates a checkpoint of a run.

    unified-fm evaluate --run=runs/nlvr2 --step=best --source=nlvr2:test1.json@data/nlvr2 --as=test
    unified-fm evaluate --run=runs/xfm --source=karpathy:dataset_coco.json:test@data/coco \\
        --as=retrieval --config.evaluate.evaluators.retrieval.rerank=256
    unified-fm evaluate --config=quickstart --workdir=runs/quickstart

With `--run` the config is the one that the run has saved. Neither its training data nor what it
started from need be there, and no step is compiled. `--source` asks an evaluator about other data:
the run's evaluator that is called `--as`, or the library's of that name, on all of the source and
with the sizes of the run's stream. Under any other name it is the one that chose the best step.
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
