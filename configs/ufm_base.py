"""UFM at base size: one encoder for unpaired images and text, two teachers, masked gradients.

    python -m unified_fm.main --config=configs/ufm_base.py --workdir=gs://bucket/run

The idea is of arXiv 2112.07074, which gives no number: every number here is our choice. The
teachers are runs of `configs/teacher_bert.py` and `configs/teacher_vit.py`, or converted weights:
`c.teachers.bert = dict(init="bert:data/bert-base-uncased", model=..., streams=["text"])`. Sources
are the user's: `--config.streams.image.source=folder:DIR`. `:smoke` trains two small teachers for
two steps and then a student for four. One of these words after the colon makes a control or an
ablation of it (`ufm_base:igm`, `ufm_base:igm,smoke`):

    joint      both streams, no teachers, gradients summed
    kd         teachers, gradients summed
    igm        masked gradients, no teachers
    vit_only   the image stream alone, no teachers
    bert_only  the text stream alone, no teachers
"""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream

CLASSES = 21_843
ARMS = ("joint", "kd", "igm", "vit_only", "bert_only")


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: "smoke" and one of `ARMS`, joined by commas, or less.

    Raises:
        ValueError: two of `ARMS`.
    """
    c = settings.start(argument, known=("smoke", *ARMS))
    c.total_steps = 500_000
    c.tokenizer = "data/bert-base-uncased"  # a folder with vocab.txt
    c.model = dict(  # the defaults are base size: 110,258,490 parameters and the image head
        name="ufm",
        vocab_size=30522,
        image_size=224,
        patch_size=16,
        classes=CLASSES,
        encoder=dict(layers=12, width=768, heads=12, mlp_width=3072, norm="pre"),
        head_bias=-10.0,
        dtype="bfloat16",
    )
    c.teachers = dict(
        vit=dict(path="runs/teacher_vit", streams=["image"]),
        bert=dict(path="runs/teacher_bert", streams=["text"]),
    )
    c.streams = _streams()
    c.gradient_groups = dict(image=["image"], text=["text"])
    c.merge = dict(name="igm", shared="encoder/.*", owner="text", final_ratio=0.5, t0=0.05, t1=0.5)
    c.telemetry = dict(every=1000)
    c.optimizer = dict(
        lr=5e-4,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.05,
        clip=1.0,
        project=(),
        schedule=dict(name="cosine", warmup=10_000),
    )
    c.rules = dict(weight_decay=[(".*/kernel", 1.0), (".*", 0.0)], sharding="tensor")
    c.checkpoint.every = 5000
    c.log.every = 100
    if "smoke" in argument:
        _smoke(c)
    if arm := settings.one_of(argument, ARMS):
        _change(c, arm)
    return c


def _streams():
    # L = CE + KD: the teacher is an additional signal, at the temperature T = 1 (the default) that
    # its probabilities were trained at. The ViT's head is of sigmoids, and so is its divergence.
    return dict(
        image=stream(
            "classify",
            "folder:data/imagenet21k",
            1024,
            dict(
                classify=dict(weight=1.0, loss="sigmoid"),
                distill=dict(weight=1.0, teacher="vit", of="image", kind="sigmoid_kl"),
            ),
            size=224,
            patch_size=16,
            crop_scale=(0.05, 1.0),
        ),
        text=stream(
            "text",
            "array_record:data/text",  # English Wikipedia and BookCorpus, say
            256,
            dict(mlm=1.0, distill=dict(weight=1.0, teacher="bert", of="mlm")),
            max_len=128,
            mask_rate=0.15,
            max_masked=20,
        ),
    )


def _change(c: ConfigDict, arm: str) -> None:
    """Makes one of `ARMS`."""
    if arm != "kd":
        c.teachers = {}
        for stream in c.streams.values():
            del stream.objectives["distill"]
    if arm != "igm":
        c.merge = dict(name="sum")
        c.telemetry.shared = "encoder/.*"  # as the masks have it
    if arm in ("vit_only", "bert_only"):
        name = "image" if arm == "vit_only" else "text"
        c.streams = {name: c.streams[name]}
        c.gradient_groups = {name: [name]}
        c.telemetry.every = 0  # it compares groups


def _smoke(c: ConfigDict) -> None:
    """A few steps, two layers, made-up data: everything runs, nothing is learnt."""
    c.total_steps = 4
    c.tokenizer = "bytes"
    c.model.update(vocab_size=261, image_size=16, patch_size=8, classes=3, max_positions=32)
    c.model.dtype = "float32"
    c.model.encoder.update(layers=2, width=16, heads=2, mlp_width=32)
    c.teachers = dict(
        vit=dict(config="teacher_vit:smoke", streams=["image"]),
        bert=dict(config="teacher_bert:smoke", streams=["text"]),
    )
    c.streams.image.update(source="synthetic:image", batch_size=8, size=16, patch_size=8)
    c.streams.text.update(source="synthetic:text", batch_size=8, max_len=32, max_masked=6)
    c.merge.update(t0=0.25, t1=0.75)
    c.optimizer.schedule.warmup = 1
    c.checkpoint.every = c.log.every = 1
    c.telemetry.every = 2
