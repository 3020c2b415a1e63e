"""ViT, pre-trained from scratch with labels: the image teacher of UFM (AugReg, arXiv 2106.10270).

    python -m unified_fm.main --config=configs/teacher_vit.py --workdir=runs/teacher_vit

Arguments after a colon: `demo` is a small one for the demo corpus's digits, about a minute on two
cores; `smoke` runs two steps on made-up images. Mixup, which the recipe also has, is not offered. A
value with the comment "ours" is not the published one.
"""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream

IMAGES, EPOCHS, BATCH = 14_197_122, 300, 4096


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: "", "demo", "smoke", or "demo,smoke": the demo with two steps.
    """
    c = settings.start(argument, known=("demo", "smoke"))
    c.total_steps = EPOCHS * IMAGES // BATCH
    c.model = dict(  # the defaults are ViT-B/16
        name="vit",
        classes=21_843,
        vision=dict(gelu="tanh"),
        head_bias=-10.0,
        dtype="bfloat16",
    )
    c.streams = dict(
        image=stream(
            "classify",
            "folder:data/imagenet21k",
            BATCH,
            dict(classify=dict(loss="sigmoid")),
            size=224,
            patch_size=16,
            crop_scale=(0.05, 1.0),
            randaugment="A",  # ours: two operations at level 7, published at level 10 or 15
        )
    )
    c.optimizer = dict(
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.1,
        clip=1.0,
        project=(),
        schedule=dict(name="cosine", warmup=10_000),
    )
    c.rules = dict(weight_decay=[(".*/kernel", 1.0), (".*", 0.0)], sharding="tensor")
    c.checkpoint.every = 10_000
    c.log.every = 100
    if "demo" in argument:
        _demo(c)
        c.total_steps = 2 if "smoke" in argument else c.total_steps
    elif argument:
        _smoke(c)
    return c


def _demo(c: ConfigDict) -> None:
    """A teacher of the size of the demo's student, and what it reaches."""
    c.prepare = "demo:mnist"
    c.total_steps = 800
    pixels = dict(size=28, patch_size=7)
    c.model.update(
        classes=10, image_size=28, patch_size=7, head_bias=0.0, dtype="float32", position_std=0.3
    )
    c.model.vision.update(layers=3, width=64, heads=2, mlp_width=256, init="lecun_normal")
    c.streams.image.update(
        source="demo:mnist/train",
        batch_size=64,
        objectives=dict(classify=dict(loss="softmax")),
        crop_scale=(0.7, 1.0),
        flip="none",  # a digit in the mirror is none
        randaugment="none",
        **pixels,
    )
    held_out = dict(source="demo:mnist/test", num_examples=1000, options=pixels)
    c.evaluate.evaluators = dict(
        digits=dict(name="classify", train_source="demo:mnist/train", **held_out),
        calibration=dict(of="image", **held_out),  # a student learns its confidence
    )
    c.optimizer.update(lr=3e-3, schedule=dict(name="cosine", warmup="8%"))
    c.checkpoint.every = 500


def _smoke(c: ConfigDict) -> None:
    """Two steps, two layers, made-up data: everything runs, nothing is learnt."""
    c.total_steps = 2
    c.model.update(classes=3, image_size=16, patch_size=8, dtype="float32")
    c.model.vision.update(layers=2, width=16, heads=2, mlp_width=32)
    c.streams.image.update(source="synthetic:image", batch_size=8, size=16, patch_size=8)
    c.optimizer.schedule.warmup = 1
    c.checkpoint.every = c.log.every = 1
