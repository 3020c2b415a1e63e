"""Image-text retrieval on COCO by X-FM's published fine-tuning (sections 3.3 and 4.1).

    unified-fm train --config=finetune/retrieval --config.init=runs/xfm --workdir=runs/retrieval

Contrast and matching without any stopped gradient: all captions of an image are its matches, and
none of them is its negative. Karpathy's `dataset_coco.json` below data/coco. Published is the epoch
with the best mean recall on the *test* set; here it is that of val. For the end:

    unified-fm evaluate --run=runs/retrieval --step=best --as=test \\
        --source=karpathy:data/coco/dataset_coco.json:test@data/coco

Arguments after a colon, joined by commas: `flickr` is Flickr30k, `smoke` two steps of a tiny model;
`demo` alone is a small model on composed scenes.
"""

from ml_collections import ConfigDict

from unified_fm.config import quick, settings
from unified_fm.data.streams import stream

DEVICES = 8  # ours: the published batch of 32 is that of one device, of an unknown number


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: any of "flickr" and "smoke", joined by commas; or "demo".
    """
    c = settings.start(argument, known=("demo", "flickr", "smoke"))
    flickr = "flickr" in argument
    c.init = dict(path=None, leave=[".*"])
    c.model = dict(of="init", image_size=384)
    c.tokenizer = "data/roberta-base"  # of a model from scratch; else the one of `init`
    words = dict(max_len=40, max_words=40)
    pixels = dict(size=384, crop_scale=(0.5, 1.0))
    learnt = dict(itc=dict(targets="ids"), itm=dict(exclude="ids", stop_text_gradient=False))
    c.streams = dict(
        task=stream(
            "image_text",
            _source(flickr, "train"),
            32 * DEVICES,
            learnt,
            groups=DEVICES,
            mask_rate=0.0,
            num_masked=0,
            **words,
            **pixels,
        )
    )
    c.total_steps = "20 epochs"  # ours: an epoch has each image once, with one of its captions
    c.optimizer = dict(lr=1e-5 if flickr else 3e-5, b2=0.98, eps=1e-8, weight_decay=0.01, clip=None)
    c.optimizer.schedule = dict(name="linear", warmup="10%")
    c.evaluate.every = "1 epoch"
    val = dict(name="retrieval", source=_source(flickr, "val"), num_examples=None, rerank=256)
    val |= dict(same="ids", candidates=0, mean=True, options=dict(size=384, **words))
    c.evaluate.evaluators = dict(val=val)
    c.checkpoint = dict(every="1 epoch", best="val/reranked/mean_recall", keep=1)
    for other in ("flickr", "smoke"):
        settings.one_of(argument, ("demo", other))
    if "demo" in argument:
        _demo(c)
    if "smoke" in argument:
        _smoke(c)
    return c


def _source(flickr: bool, split: str) -> str:
    if flickr:
        return f"karpathy:data/flickr30k/dataset_flickr30k.json:{split}@data/flickr30k"
    return f"karpathy:data/coco/dataset_coco.json:{split}@data/coco"


def _demo(c: ConfigDict) -> None:
    """Scenes of the objects of the quick start and their captions; the recipe is ours."""
    sources = {split: f"demo:captions/{split}" for split in ("train", "val", "test")}
    words = dict(max_len=12, max_words=12)
    entry = c.evaluate.evaluators.val.to_dict()
    quick.made(c, "captions", sources, steps=400, batch=48, groups=1, **words)
    entry |= dict(rerank=16, options=dict(size=c.streams.task.size, **words))
    entry["options"]["patch_size"] = c.streams.task.patch_size
    for name in c.evaluate.evaluators:
        c.evaluate.evaluators[name] = entry | dict(source=sources[name])


def _smoke(c: ConfigDict) -> None:
    """Two steps, one layer: everything runs, nothing is learnt."""
    c.init.path = "scratch"
    c.total_steps, c.evaluate.every, c.checkpoint.every = 2, 1, 1
    c.tokenizer = "bytes"
    layers = dict(layers=1, width=16, heads=2, mlp_width=32)
    tiny = dict(name="xfm", vocab_size=300, text=layers, vision=layers, fusion=layers)
    tiny |= dict(projection_dim=8)
    c.model = dict(of="init", otherwise=tiny, image_size=16, patch_size=8)
    small = dict(size=16, patch_size=8)
    c.streams.task.update(batch_size=2, groups=1, **small)
    c.evaluate.evaluators.val.options.update(small)
    c.evaluate.evaluators.val.batch_size = 2
