r"""The quick start's model and evaluators on pictures and captions of your own, from scratch.

    unified-fm train --config=own_data --config.streams.pairs.source='folder:mine[:90%]' \
        --workdir=runs/mine

The source of `pairs` is the one thing to change: any source string of docs/data.md. The text stream
reads its captions, and the evaluators read what the brackets behind it leave (`rest:pairs`): here
the last tenth. Behind the name of the config, joined by commas, may stand

    regions    the records have `regions`: boxes are learnt and measured, too
    objects    the records have `objects`: the evaluator `imlm` masks their names
    size=96    pixels of a side, a multiple of 12, instead of the quick start's 48
    length=12  tokens of the longest text, instead of 64; `data check` says how many yours have
    smoke      a few steps on made-up pictures: everything runs, nothing is learnt

Texts are read as bytes until `tokenizer` names a folder with a vocabulary: words are learnt sooner.
"""

from ml_collections import ConfigDict

from unified_fm.config import python, settings
from unified_fm.data.streams import stream

LENGTH = 64  # tokens of a caption, or bytes
PATCH = 12  # pixels, as in the quick start


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` as above."""
    c = settings.start(argument, known=("smoke", "regions", "objects", "size=", "length="))
    words = argument.split(",")
    first = python.read("quickstart")
    size = settings.number(argument, "size", first["model"]["image_size"])
    length = settings.number(argument, "length", LENGTH)
    c.model = first["model"] | dict(image_size=size, max_positions=length)
    c.optimizer, c.mesh = first["optimizer"], first["mesh"]
    c.total_steps = first["total_steps"]
    c.checkpoint = first["checkpoint"]
    c.streams = _streams("folder:data/own[:90%]", size, length, regions="regions" in words)
    c.evaluate = dict(evaluators=_evaluators(size, length, words))
    if "smoke" in words:
        c.total_steps = 2
        c.streams.pairs.source = "synthetic:regions:40"
        for name in c.streams:
            c.streams[name].update(batch_size=4, max_skip=1.0)
        if "regions" in words:
            c.streams.regions.images = 4
        for name in c.evaluate.evaluators:
            c.evaluate.evaluators[name].num_examples = 8
    return c


def _pixels(size):
    return dict(size=size, patch_size=PATCH)


def _streams(source, size, length, *, regions):
    # A picture of one's own may be mirrored and cut a little; a caption that says left stays true.
    image = dict(crop_scale=(0.6, 1.0), flip="careful", randaugment="none", **_pixels(size))
    text = dict(max_len=length)
    # Two captions that read the same are matches, not negatives.
    aligned = dict(itc=dict(targets="texts"), itm=dict(exclude="texts"), imlm=1.0)
    masked = 6 * (size // PATCH) ** 2 // 16  # as large a share of the patches as the quick start's
    found = dict(
        text=stream("text", "stream:pairs", 24, dict(mlm=1.0), clean="caption", **text),
        pairs=stream(
            "image_text", source, 48, aligned | dict(mim=1.0), num_masked=masked, **text, **image
        ),
    )
    if regions:
        learnt = aligned | dict(bbox=dict(weight=4.0))
        found["regions"] = stream(
            "regions", "stream:pairs", 64, learnt, images=32, **text, **_pixels(size)
        )
    return found


def _evaluators(size, length, words):
    pairs = dict(source="rest:pairs", options=dict(max_len=length, **_pixels(size)))
    found = dict(
        retrieval=dict(candidates=100, same="texts", **pairs),
        itm=dict(**pairs),
        mlm=dict(
            source="rest:pairs",
            train_source="stream:pairs",
            options=dict(clean="caption", max_len=length),
        ),
    )
    if "objects" in words:
        found["imlm"] = dict(**pairs)
    if "regions" in words:
        found["grounding"] = dict(**pairs)
    return found
