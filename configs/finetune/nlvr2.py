"""NLVR2 by X-FM's published fine-tuning (sections 3.3 and 4.3): which sentences are true of two
images. Select by dev; the test set (test-P) is for the end:

    unified-fm train --config=finetune/nlvr2 --config.init=runs/xfm --workdir=runs/nlvr2
    unified-fm evaluate --run=runs/nlvr2 --step=best --source=nlvr2:data/nlvr2/test1.json

The files are the official ones below data/nlvr2, with the images beside them. `:smoke` runs two
steps of a tiny model, `:demo` a small one on composed scenes.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.streams import stream


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` is "", "demo" or "smoke"."""
    c = settings.start(argument, known=("demo", "smoke"))
    c.init = dict(path=None, fresh=["nlvr2_head/.*"], leave=[".*"])
    c.model = dict(of="init", image_size=384)
    c.tokenizer = "data/roberta-base"  # of a model from scratch; else the one of `init`
    pixels = dict(size=384, crop_scale=(0.5, 1.0))
    source = "nlvr2:data/nlvr2/train.json"
    c.streams = dict(task=stream("nlvr2", source, 8, dict(nlvr2=1.0), max_len=40, **pixels))
    c.total_steps = "15 epochs"
    c.optimizer = dict(lr=1e-5, b2=0.98, eps=1e-8, weight_decay=0.01, clip=None)
    c.optimizer.schedule = dict(name="linear", warmup="10%")
    c.evaluate.every = "1 epoch"
    c.evaluate.evaluators = dict(
        dev=dict(name="nlvr2", like="task", source="nlvr2:data/nlvr2/dev.json")
    )
    c.checkpoint = dict(every="1 epoch", best="dev/accuracy", keep=1)
    recipe = settings.one_of(argument, ("demo", "smoke"))
    if recipe == "demo":
        _demo(c)
    if recipe == "smoke":
        _smoke(c)
    return c


def _demo(c: ConfigDict) -> None:
    """Sentences about two scenes of the objects of the quick start; the recipe is ours."""
    sources = {split: f"demo:nlvr2/{split}" for split in ("train", "val", "test")}
    quick.made(c, "nlvr2", sources, steps=400, batch=32, max_len=16)


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.tokenizer = "bytes"
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    c.model = dict(of="init", otherwise=tiny, image_size=16, patch_size=8)
    c.streams.task.update(batch_size=2, size=16, patch_size=8, max_skip=1.0)
