"""Stands in for a run's model in the tests of tasks: a function says the predictions."""

import numpy as np

from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.streams import stream
from unified_fm.evaluators._passes import Passes
from unified_fm.evaluators._place import Place

BYTES = tokenizers.load("bytes")


class Apply:
    """`apply.predictions`, which gives `say(batch)` and remembers how many rows it was asked."""

    def __init__(self, say):
        self.say = say
        self.sizes = []

    def predictions(self, stream, objective, params, batch):
        del stream, objective, params
        self.sizes.append(len(next(iter(batch.values()))))
        return {name: np.asarray(rows) for name, rows in self.say(batch).items()}


def evaluator(module, source, folder, *, learnt, class_names=(), passes=None, given=(), **options):
    """The module's evaluator "dev" of a stream "task" at step 7, with the stream's options."""
    name = module.__name__.rpartition(".")[2]
    streams = {"task": stream(name, "a:b", 2, {name: learnt}, **options)}
    return module.Evaluator(
        like="task",
        source=source,
        streams=streams,
        tokenizer=BYTES,
        passes=passes or Passes(),
        place=Place("dev", folder, 7, {"task": list(class_names)} if class_names else {}),
        **dict(given),
    )
