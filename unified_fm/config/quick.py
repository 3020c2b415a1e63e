"""`:demo` of a fine-tuning: the quick start's small model on the demo corpus, in seconds.

    sources = dict(train="demo:vqa/train", test="demo:vqa/test")
    c = quick.made(c, "vqa", sources, steps=400, batch=32)

From `init` the model is the one there; from "scratch" that of the quick start. There
is no early stop and nothing is selected: the last step counts, and is evaluated once, on `val` (by
which the recipe was chosen) and on `test`.
"""

from collections.abc import Mapping
from typing import Any

from unified_fm.config import python

_PLACES = ("prepare", "tokenizer", "mesh")


def made(
    c: Any,
    parts: str,
    sources: Mapping[str, str],
    *,
    steps: int,
    batch: int,
    lr: float = 1e-3,
    **options: Any,
) -> Any:
    """Changes a fine-tuning's config: all but what is learnt, and with which head.

    Args:
        c: a ConfigDict with a stream "task" and one evaluator at least.
        parts: of the demo corpus, joined by commas.
        sources: {"train": source string, "test": ...}, and of further evaluators.
        steps: of the run.
        batch: rows of a step.
        lr: peak of the rate.
        **options: of the pipeline, beside the size of pictures.

    Raises:
        ValueError: the config of the quick start cannot be read.
    """
    first = python.read("quickstart")
    for name in _PLACES:
        c[name] = first[name]
    c.prepare = f"{first['prepare']}:tokenizer,{parts}"
    c.total_steps = steps
    c.model = dict(of="init", otherwise=first["model"])
    c.streams.task.update(source=sources["train"], batch_size=batch, **options)
    if "size" in c.streams.task:
        c.streams.task.update(
            size=first["model"]["image_size"],
            patch_size=first["model"]["patch_size"],
            augment="none",  # of scenes of a few small things any crop would lose some
        )
    c.optimizer = first["optimizer"] | dict(lr=lr)
    c.rules = dict(lr_scale=None, weight_decay=None)
    kind = next(iter(c.evaluate.evaluators.values()))["name"]
    c.evaluate = dict(
        evaluators={
            name: dict(name=kind, like="task", source=source)
            for name, source in sources.items()
            if name != "train"
        }
    )
    c.checkpoint = dict(every=steps, keep=1)
    c.log = dict(every=50, tensorboard=False)
    c.report = False
    return c
