"""The quick start: a small X-FM on four real streams, on two CPU cores, in minutes.

    tools/env.sh python -m unified_fm.main --config=configs/quickstart.py --workdir=runs/quickstart

The objects are 64 OpenMoji drawings. Scenes of one to three of them are composed as they are read;
the held-out scenes have pairs of objects that never stood together in training. So the table says
whether the model names, matches and locates these objects; it says nothing about other drawings,
and nothing about spatial language. `configs/quickstart.py:smoke` is the same with a few steps.
"""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream
from unified_fm.demo import corpus

PIXELS = dict(size=48, patch_size=12)  # 4 x 4 patches: a cut-out covers one to four of them
CAPTION, PHRASE, PASSAGE = 10, 4, 32  # tokens: "a X, a Y and a Z", "a X", a piece of prose


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` is "" or "smoke"."""
    c = settings.start(argument, known=("smoke",))
    c.prepare = "demo"
    c.tokenizer = str(corpus.folder() / "tokenizer")
    c.total_steps = 6 if "smoke" in argument else 1400
    c.model = _model()
    c.streams = _streams()
    c.optimizer = dict(
        lr=3e-3,
        b1=0.9,
        b2=0.98,
        weight_decay=0.01,
        clip=1.0,
        schedule=dict(name="cosine", warmup="8%", end=0.02),
    )
    c.mesh = dict(data=1, tensor=-1)  # so small that every device there is does the same
    c.checkpoint = dict(every=400)
    c.evaluate = dict(evaluators=_evaluators(num_examples=100 if "smoke" in argument else 500))
    return c


def _model():
    """From scratch and in few steps: pre-LN everywhere, and learned patch positions, without which
    the boxes stay at the best constant box."""
    layer = dict(
        width=64,
        heads=2,
        mlp_width=256,
        norm="pre",
        dropout=0.0,
        attention_dropout=0.0,
        drop_path=0.0,
        init="lecun_normal",
        layer_scale=1.0,
        residual_init_scale="stack",
    )
    return dict(
        name="xfm",
        vocab_size=2000,
        image_size=PIXELS["size"],
        patch_size=PIXELS["patch_size"],
        projection_dim=64,
        max_positions=PASSAGE,
        pad_id=0,
        position_offset="bert",
        text=dict(layers=2, **layer),
        vision=dict(layers=3, **layer),
        fusion=dict(layers=2, **layer),
        absolute_positions=True,
        word_std=0.1,
        position_std=0.1,
        patch_position_std=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _streams():
    image = dict(num_masked=6, augment="none", **PIXELS)
    # Of 64 names many stand twice in a batch: they are matches, not negatives. The boxes weigh 4:
    # with 2 it hangs on the last digit whether they leave the constant box at step 350 or 800.
    aligned = dict(itc=dict(targets="texts"), itm=dict(exclude="texts"), imlm=1.0)
    return dict(
        text=stream("text", "demo:text/train", 24, dict(mlm=1.0), max_len=PASSAGE, max_masked=6),
        image=stream("image", "demo:objects/train", 16, dict(mim=1.0), **image),
        pairs=stream(
            "image_text",
            "demo:scenes/train",
            48,
            aligned | dict(mim=1.0),
            max_len=CAPTION,
            max_masked=4,
            **image,
        ),
        regions=stream(
            "regions",
            "demo:scenes/train",
            64,
            aligned | dict(bbox=dict(weight=4.0)),
            images=32,
            caption="none",
            max_len=PHRASE,
            max_masked=2,
            augment="none",
            **PIXELS,
        ),
    )


def _evaluators(num_examples):
    scenes = dict(
        source="demo:scenes/test",
        num_examples=num_examples,
        options=dict(max_len=CAPTION, **PIXELS),
    )
    return dict(
        # Few captions describe many scenes: one that reads the same is no mistake.
        retrieval=dict(candidates=100, same="texts", **scenes),
        itm=dict(**scenes),
        imlm=dict(**scenes),
        grounding=dict(**scenes),
        mlm=dict(
            source="demo:text/val",
            train_source="demo:text/train",
            options=dict(max_len=PASSAGE, max_masked=6),
        ),
    )
