"""ImageNet, or any folder of classes, by X-FM's published fine-tuning (sections 3.3 and 4.7).

    unified-fm train --config=finetune/image_classification --config.init=runs/xfm --workdir=...

`--config.streams.task.source=folder:DIR` and the number of classes, as two options of the objective
and the evaluator's source, make it any other set. Pixels are normalised as by what it starts from;
`official` takes ImageNet's mean and deviation, as X-FM does whatever it was pre-trained with.

Arguments after a colon, joined by commas: `official`; `layerwise`, a recipe with a decay of the
rate by layer, an average of the parameters and a linear head, as BEiT's and MAE's are, whose
numbers are ours; `smoke`, two steps of a tiny model. `demo` alone is a small model on written
digits. A value with the comment "ours" is not the published one.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.streams import stream

DEVICES = 8  # ours: the published batch of 128 is that of one device, of an unknown number
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: any of "layerwise", "official" and "smoke", joined by commas; or "demo".
    """
    c = settings.start(argument, known=("demo", "layerwise", "official", "smoke"))
    for other in ("layerwise", "official", "smoke"):
        settings.one_of(argument, ("demo", other))
    c.init = dict(path=None, fresh=["class_head/.*"], leave=[".*"])
    c.model = dict(of="init")  # ours: and its mean and deviation of pixels
    learnt = dict(classes=1000, head="deep", label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    learnt |= dict(switch=0.5, erasing=0.25)
    c.streams = dict(
        task=stream(
            "image_classification",
            "folder:data/imagenet/train",
            128 * DEVICES,
            dict(image_classification=learnt),
            size=224,
            randaugment="A",  # ours: published is timm's rand-m9-mstd0.5-inc1
        )
    )
    c.total_steps = "100 epochs"
    c.optimizer = dict(lr=4e-5, b2=0.999, eps=1e-8, weight_decay=0.01, clip=None)
    c.optimizer.schedule = dict(name="cosine", warmup="10 epochs", end=1e-7 / 4e-5)
    c.rules.weight_decay = "plain"  # the published program decays every tensor
    c.evaluate.every = "1 epoch"
    c.evaluate.evaluators = dict(
        dev=dict(name="image_classification", like="task", source="folder:data/imagenet/val")
    )
    c.checkpoint = dict(every="1 epoch", best="dev/accuracy", keep=1)
    if "official" in argument:
        c.model.update(IMAGENET)
    if "layerwise" in argument:
        _layerwise(c)
    if "demo" in argument:
        _demo(c)
    if "smoke" in argument:
        _smoke(c)
    return c


def _layerwise(c: ConfigDict) -> None:
    """All of it ours, after BEiT-2's and MAE's habits."""
    c.streams.task.objectives.image_classification.head = "linear"
    c.optimizer.update(lr=5e-4, weight_decay=0.05)
    c.optimizer.schedule.update(warmup="20 epochs", end=1e-6 / 5e-4)
    c.rules.update(lr_scale="layerwise:0.65", weight_decay="correct")
    c.ema = 0.9999
    c.evaluate.params = "ema"


def _demo(c: ConfigDict) -> None:
    """Ten digits; with few labels of each (`few:30:demo:mnist/train`) it shows more."""
    c.streams.task.objectives.image_classification = dict(
        classes=10, head="linear", mixup=0.0, cutmix=0.0, erasing=0.0
    )
    sources = {split: f"demo:mnist/{split}" for split in ("train", "val", "test")}
    quick.made(c, "mnist", sources, steps=200, batch=32, randaugment="none", fit="squash")


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer, two classes: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.optimizer.schedule.warmup = 1
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", text=layers, vision=layers, fusion=layers)
    c.model.update(otherwise=tiny, image_size=16, patch_size=8)
    c.streams.task.update(batch_size=2, size=16, patch_size=8)
    c.streams.task.objectives.image_classification.classes = 2
