"""UFM in minutes on two cores: two teachers, then one encoder for digits and for text.

    tools/env.sh python -m unified_fm.main --config=configs/ufm_quickstart.py --workdir=runs/ufm

The images are 5,000 digits of MNIST, the text passages of Wikipedia and reviews. First a small ViT
and a small BERT are trained, each with its own table; then the student of their size learns both
tasks in one encoder from labels, masked words and its teachers, its gradients merged by gradient
masking. Digits are easy: the table shows that the parts work together, not how well the method
does (`experiments/ufm_ablation`). `:smoke` is the same with a few steps.
"""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream
from unified_fm.demo import corpus


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: "" or "smoke".
    """
    c = settings.start(argument, known=("smoke",))
    c.prepare = "demo:text,tokenizer,mnist"
    c.tokenizer = str(corpus.folder() / "tokenizer")
    c.total_steps = 600
    pixels = dict(size=28, patch_size=7)
    words = dict(max_len=32, max_masked=6)
    c.model = dict(
        name="ufm",
        vocab_size=2000,
        image_size=28,
        patch_size=7,
        classes=10,
        encoder=dict(layers=3, width=64, heads=2, mlp_width=256, init="lecun_normal"),
        max_positions=32,
        word_std=0.1,
        patch_position_std=0.3,
    )
    c.teachers = dict(
        vit=dict(config="teacher_vit:demo", streams=["image"]),
        bert=dict(config="teacher_bert:demo", streams=["text"]),
    )
    c.streams = _streams(pixels, words)
    c.gradient_groups = dict(image=["image"], text=["text"])
    c.merge = dict(name="igm", shared="encoder/.*", final_ratio=0.5, t0=0.05, t1=0.5)
    c.telemetry = dict(every=50)
    digits = dict(source="demo:mnist/test", train_source="demo:mnist/train", options=pixels)
    c.evaluate.evaluators = dict(
        digits=dict(name="classify", num_examples=1000, **digits),
        mlm=dict(source="demo:text/val", train_source="demo:text/train", options=words),
    )
    c.optimizer = dict(
        lr=3e-3,
        b1=0.9,
        b2=0.999,
        weight_decay=0.05,
        clip=1.0,
        project=(),
        schedule=dict(name="cosine", warmup="5%"),
    )
    c.rules = dict(weight_decay=[(".*/kernel", 1.0), (".*", 0.0)])
    c.checkpoint.every = 300
    if "smoke" in argument:
        c.total_steps = 4
        c.merge.update(t0=0.25, t1=0.75)
        c.telemetry.every = 2
        c.log.every = 1
        for name in ("vit", "bert"):
            c.teachers[name].config = f"teacher_{name}:demo,smoke"
    return c


def _streams(pixels, words):
    return dict(
        image=stream(
            "classify",
            "demo:mnist/train",
            64,
            dict(classify=1.0, distill=dict(weight=1.0, teacher="vit", of="image")),
            crop_scale=(0.7, 1.0),
            flip="none",
            randaugment="none",
            **pixels,
        ),
        text=stream(
            "text",
            "demo:text/train",
            64,
            dict(mlm=1.0, distill=dict(weight=1.0, teacher="bert", of="mlm")),
            **words,
        ),
    )
