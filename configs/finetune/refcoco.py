"""RefCOCO+, the second stage of X-FM's published fine-tuning (sections 3.3 and 4.4).

    unified-fm train --config=finetune/refcoco --config.init=runs/xfm --workdir=runs/refcoco
    unified-fm evaluate --run=runs/refcoco --step=best --as=testA \\
        --source=refcoco:data/refcoco/finetune_refcoco+_testA.json@data/coco/train2014

MDETR's files below data/refcoco, COCO's images below data/coco/train2014; RefCOCO and RefCOCOg are
other files in their place. Select by val; testA and testB are for the end. The first stage of the
paper is `bbox` on regions at 224 pixels, as in pre-training. `:smoke` runs two steps of a tiny
model, `:demo` a small one on composed scenes.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.streams import stream

SET, IMAGES = "data/refcoco/finetune_refcoco+", "data/coco/train2014"


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` is "", "demo" or "smoke"."""
    c = settings.start(argument, known=("demo", "smoke"))
    c.init = dict(path=None, leave=[".*"])
    c.model = dict(of="init", image_size=384)
    c.tokenizer = "data/roberta-base"  # of a model from scratch; else the one of `init`
    source = f"refcoco:{SET}_train.json@{IMAGES}"
    c.streams = dict(task=stream("refcoco", source, 20, dict(refcoco=1.0), size=384, max_len=40))
    c.total_steps = "15 epochs"
    c.optimizer = dict(lr=2e-5, b2=0.98, eps=1e-8, weight_decay=0.01, clip=None)
    c.optimizer.schedule = dict(name="linear", warmup="10%")
    c.evaluate.every = "1 epoch"
    c.evaluate.evaluators = dict(
        val=dict(name="refcoco", like="task", source=f"refcoco:{SET}_val.json@{IMAGES}")
    )
    c.checkpoint = dict(every="1 epoch", best="val/val/accuracy", keep=1)
    recipe = settings.one_of(argument, ("demo", "smoke"))
    if recipe == "demo":
        _demo(c)
    if recipe == "smoke":
        _smoke(c)
    return c


def _demo(c: ConfigDict) -> None:
    """Things by name (testA) and by place (testB) in scenes of the quick start's objects."""
    sources = {split: f"demo:refcoco/{split}" for split in ("train", "val")}
    sources["test"] = "demo:refcoco/testA+demo:refcoco/testB"
    quick.made(c, "refcoco", sources, steps=400, batch=48, max_len=16)


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.tokenizer = "bytes"
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    c.model = dict(of="init", otherwise=tiny, image_size=16, patch_size=8)
    c.streams.task.update(batch_size=2, size=16, patch_size=8)
