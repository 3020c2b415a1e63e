"""X-FM at its published base size, streams and settings (arXiv 2301.05065, published 4M config).

    python -m unified_fm.main --config=configs/xfm_base.py --workdir=gs://bucket/run

The sources are the user's: `--config.streams.pairs.source=jsonl:FILE` and so on, as README shows.
Arguments after a colon, joined by commas: `smoke` runs two steps of it small on made-up data;
`official` switches every point that we decided otherwise (all but the optimizer steps) back to what
the published program does; `chips=256` makes the batch of so many devices, and as many groups of
rows, with the published learning rate; `quarter` is a quarter of the schedule. A value with the
comment "ours" is not the published one.

One of these words makes a control or an ablation of it (`xfm_base:no_stop,quarter`):

    no_stop     itm, imlm and bbox move the language encoder, too
    no_mim      no masked images: without mim the image stream has nothing to learn, and goes
    mim_frozen  mim towards the frozen vision encoder of runs/xfm_image_only, not towards its own
    text_only   the text stream alone: a language model by mlm
    image_only  the image stream alone: a vision encoder by pixels of masked patches, as its own
                output is no target where nothing else teaches it
"""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream

CHIPS = 32  # ours: the published number is not known; 32 x 96 pairs make 3,072 per step
EPOCHS, PAIRS = 100, 5_114_489
ARMS = ("no_stop", "no_mim", "mim_frozen", "text_only", "image_only")


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: any of "smoke", "official", "quarter" and "chips=N", and one of `ARMS`, joined by
            commas.

    Raises:
        ValueError: two of `ARMS`.
    """
    c = settings.start(argument, known=("smoke", "official", "quarter", "chips=", *ARMS))
    chips = settings.number(argument, "chips", CHIPS)
    c.seed = 42
    quarter = 4 if "quarter" in argument else 1
    c.total_steps = EPOCHS * -(-PAIRS // (96 * chips)) // quarter  # 166,500 for 32
    c.tokenizer = "data/roberta-base"  # a folder with the published vocab.json and merges.txt
    c.model = dict(  # the defaults are the published base size: 12 layers of width 768 each
        name="xfm",
        vocab_size=50265,
        image_size=224,
        patch_size=16,
        projection_dim=256,
        text=dict(layers=12, width=768, heads=12, mlp_width=3072),
        vision=dict(layers=12, width=768, heads=12, mlp_width=3072),
        fusion=dict(layers=12, width=768, heads=12, mlp_width=3072),
        dtype="bfloat16",  # ours: published float16 with a loss scale
        remat="dots",  # ours: half the temporary memory for 1 % more FLOPs (docs/performance.md)
    )
    c.streams = _streams(chips)
    c.optimizer = dict(
        lr=1e-4,
        b1=0.9,
        b2=0.98,
        eps=1e-8,
        weight_decay=0.01,
        clip=1.0,
        project=(("temperature", (0.001, 0.5)),),
        schedule=dict(name="linear", warmup=2500 // quarter),
    )
    c.rules = dict(lr_scale="correct", weight_decay="correct", frozen="plain", sharding="tensor")
    c.mesh = dict(data=-1, fsdp=1, tensor=1)
    c.checkpoint.every = 5000  # ours: published every 5 epochs with, every 50,000 steps without
    c.log.every = 100
    if "official" in argument:
        _official(c, chips)
    if "smoke" in argument:
        _smoke(c)
    if arm := settings.one_of(argument, ARMS):
        _change(c, arm, small="smoke" in argument)
    return c


def _streams(chips: int) -> dict:
    """The four streams of the published 4M run; batch sizes are per device there.

    A group is what one device has there: negatives are drawn from its 96 rows.
    """
    image = dict(size=224, patch_size=16, num_masked=75)
    caption = dict(max_len=30, max_words=30, mask_rate=0.5, max_masked=15)
    aligned = dict(itc=1.0, itm=1.0, imlm=1.0)
    return dict(
        text=stream(
            "text",
            "array_record:data/text",  # the published corpus is not named
            256 * chips,
            dict(mlm=1.0),
            max_len=128,
            mask_rate=0.15,
            max_masked=20,
        ),
        image=stream("image", "tfds:imagenet2012:train", 96 * chips, dict(mim=1.0), **image),
        pairs=stream(
            "image_text",
            "array_record:data/pairs",  # COCO, VG, SBU and CC3M
            96 * chips,
            aligned | dict(mim=1.0),
            groups=chips,
            **image,
            **caption,
        ),
        regions=stream(
            "regions",
            "array_record:data/regions",  # COCO and VG objects, attributes and regions
            96 * chips,
            aligned | dict(bbox=1.0),
            images=80 * chips,
            groups=chips,
            max_regions=5,
            size=224,
            patch_size=16,
            **caption,
        ),
    )


def _change(c: ConfigDict, arm: str, small: bool) -> None:
    """Makes one of `ARMS`."""
    if arm == "text_only":
        c.streams = dict(text=c.streams.text)
    elif arm == "image_only":
        c.streams = dict(image=c.streams.image)
        c.streams.image.objectives = dict(pixels=1.0)
    elif arm == "no_mim":
        del c.streams.image, c.streams.pairs.objectives["mim"]
    elif arm == "mim_frozen":
        images = dict(path="runs/xfm_image_only", streams=["image", "pairs"])
        if small:
            images = dict(config="xfm_base:image_only,smoke", streams=["image", "pairs"])
        c.teachers = dict(images=images)
        for name in ("image", "pairs"):
            c.streams[name].objectives["mim"] = dict(weight=1.0, target="teacher:images")
    else:
        for name in ("pairs", "regions"):
            objectives = c.streams[name].objectives
            for key in {"itm", "imlm", "bbox"} & {*objectives}:
                told = objectives[key]
                told = dict(told) if isinstance(told, ConfigDict) else dict(weight=told)
                objectives[key] = told | dict(stop_text_gradient=False)


def _official(c: ConfigDict, chips: int) -> None:
    """The published behaviour at the points where ours differs."""
    for name in ("text", "pairs", "regions"):
        c.streams[name].update(mask_units="spans", special_tokens="official")
    aligned = dict(itc=dict(gradient_scale=1 / chips), itm=1.0, imlm=1.0)
    c.streams.pairs.objectives = aligned | dict(mim=1.0)
    c.streams.regions.objectives = aligned | dict(bbox=dict(degenerate="batch"))
    c.rules.lr_scale = c.rules.weight_decay = "official"


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer, made-up data: everything runs, nothing is learnt."""
    layers = dict(layers=1, width=32, heads=2, mlp_width=64)
    c.total_steps = 2
    c.tokenizer = "bytes"
    c.model.update(vocab_size=300, image_size=64, projection_dim=16, dtype="float32")
    c.model.remat = "none"  # compiles sooner
    c.streams.text.update(source="synthetic:text", max_len=32)
    for stack in ("text", "vision", "fusion"):
        c.model[stack].update(layers)
    for name, kind in (("image", "image"), ("pairs", "pairs"), ("regions", "regions")):
        c.streams[name].update(source=f"synthetic:{kind}", size=64)
    for entry in c.streams.values():
        entry.batch_size = 8
        if "num_masked" in entry:
            entry.num_masked = 6
        if "groups" in entry:
            entry.groups = 1
    c.streams.regions.images = 8
    c.mesh.update(data=1, tensor=-1)  # eight rows: every device there is does the same
    c.rules.sharding = "fsdp"  # two heads are not for many devices
    c.checkpoint.every = c.log.every = 1
    c.optimizer.schedule.warmup = 1
