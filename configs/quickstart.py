"""The quick start: a small X-FM on four real streams, on two CPU cores, in minutes.

    tools/env.sh python -m unified_fm.main --config=configs/quickstart.py --workdir=runs/quickstart

The objects are 64 OpenMoji drawings. Scenes of one to three of them are composed as they are read;
the held-out scenes have pairs of objects that never stood together in training. So the table says
whether the model names, matches and locates these objects; it says nothing about other drawings,
and nothing about spatial language. `configs/quickstart.py:smoke` is the same with a few steps.
"""

from ml_collections import config_dict

from unified_fm.data.streams import stream

SIZE, PATCH = 48, 12  # 4 x 4 patches: a cut-out covers one to four of them.


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """The config; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown argument {arg!r} after ':'; possible: smoke")
    smoke = arg == "smoke"

    c = config_dict.ConfigDict()
    c.prepare = "demo"
    c.tokenizer = "data/demo/tokenizer"
    c.total_steps = 6 if smoke else 1600

    layer = dict(
        width=64,
        heads=2,
        mlp_width=256,
        norm="pre",
        dropout=0.0,
        attention_dropout=0.0,
        drop_path=0.0,
        layer_scale=1.0,
        residual_init_scale="stack",
    )
    c.model = dict(
        name="xfm",
        vocab_size=2000,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=64,
        max_positions=40,
        pad_id=0,
        position_offset="bert",
        text=dict(layers=2, **layer),
        vision=dict(layers=3, **layer),
        fusion=dict(layers=2, **layer),
        absolute_positions=True,
        word_std=0.1,
        position_std=0.1,
        patch_position_std=0.2,
    )

    pixels = dict(size=SIZE, patch_size=PATCH)
    image = dict(num_masked=6, augment="none", **pixels)
    words = dict(max_masked=4)
    aligned = dict(itc=1.0, itm=1.0, imlm=1.0)
    c.streams = dict(
        text=stream("text", "demo:text/train", 96, dict(mlm=1.0), max_len=32, max_masked=6),
        image=stream("image", "demo:objects/train", 16, dict(mim=1.0), **image),
        pairs=stream("image_text", "demo:scenes/train", 64, aligned | dict(mim=1.0), max_len=12, **image, **words),
        regions=stream(
            "regions",
            "demo:scenes/train",
            64,
            aligned | dict(bbox=1.0),
            images=32,
            max_len=6,
            augment="none",
            **pixels,
            **words,
        ),
    )
    c.gradient_groups = dict(all=["text", "image", "pairs", "regions"])
    c.merge = dict(name="sum")

    held_out = dict(
        source="demo:scenes/test", num_examples=500, options=dict(max_len=12, **pixels)
    )
    c.evaluate = dict(
        evaluators=dict(
            retrieval=dict(candidates=100, **held_out),
            itm=dict(**held_out),
            imlm=dict(**held_out),
            grounding=dict(**held_out),
            mlm=dict(
                source="demo:text/val",
                train_source="demo:text/train",
                options=dict(max_len=32, max_masked=6),
            ),
        )
    )

    c.optimizer = dict(
        lr=3e-3,
        b1=0.9,
        b2=0.98,
        weight_decay=0.01,
        clip=1.0,
        schedule=dict(name="cosine", warmup_fraction=0.08, end=0.02),
    )
    return c
