"""The joint arm of the UFM ablation, and its teachers; `arms.py` has the others as changes of it.

A toy on the demo corpus: images of one of 64 drawings each, passages of Wikipedia and reviews.
"""

from typing import Any

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream
from unified_fm.demo import corpus

_PIXELS = dict(size=28, patch_size=7)
_WORDS = dict(max_len=32, max_masked=5)
_DRAWINGS = "size=28&min_side=8&max_side=26"


def get_config(argument: str = "") -> ConfigDict:
    """The config.

    Args:
        argument: "vit" or "bert", a teacher; "short", a few steps, which show nothing.
    """
    c = settings.start(argument, known=("vit", "bert", "short"))
    words = argument.split(",")
    who = next((name for name in ("vit", "bert") if name in words), "")
    short = "short" in words
    c.prepare = "demo:text,tokenizer,objects,mnist,topics"
    c.tokenizer = str(corpus.folder() / "tokenizer")
    c.total_steps = 2000 if who else 1500
    c.model = _model(who)
    c.streams = dict(
        image=stream(
            "classify",
            f"experiments.objects:train?{_DRAWINGS}&length=64000",
            64,
            dict(classify=1.0),
            augment="none",
            **_PIXELS,
        ),
        text=stream("text", "demo:text/train", 64, dict(mlm=1.0), **_WORDS),
    )
    c.evaluate.evaluators = _evaluators(*((200, "val") if short else (2000, "train")))
    c.optimizer = dict(
        lr=2e-3 if who else 3e-3,
        b1=0.9,
        b2=0.999,
        weight_decay=0.05,
        clip=1.0,
        project=(),
        schedule=dict(name="cosine", warmup="5%"),
    )
    c.rules = dict(weight_decay=[(".*/kernel", 1.0), (".*", 0.0)])
    c.log.tensorboard = c.report = False
    if short:
        c.total_steps = 20
    if who:
        alone(c, {"vit": "image", "bert": "text"}[who])
    else:
        c.gradient_groups = dict(image=["image"], text=["text"])
    return c


READERS = dict(
    image=("drawings", "drawings_tempered", "objects", "digits"),
    text=("words", "words_tempered", "topics"),
)


def alone(c: ConfigDict, kept: str) -> None:
    """Leaves one stream, and what it can be asked."""
    other = {"image": "text", "text": "image"}[kept]
    del c.streams[other]
    for name in READERS[other]:
        del c.evaluate.evaluators[name]


def _model(who: str) -> dict:
    width, layers = (64, 3) if who else (32, 2)
    stack = dict(layers=layers, width=width, heads=2, mlp_width=4 * width)
    images = dict(image_size=28, patch_size=7, classes=64)
    # Large initial embeddings: with BERT's 0.02 a short run hardly gets to use the positions.
    words = dict(vocab_size=1996, max_positions=32, word_std=0.1, position_std=0.1)
    if who == "vit":
        return dict(name="vit", vision=stack, position_std=0.3, **images)
    if who == "bert":
        # Pre-LN learns faster in a short run, as configs/teacher_bert.py:demo has it.
        stack |= dict(norm="pre", dropout=0.0, attention_dropout=0.0)
        return dict(name="bert", text=stack, **words)
    return dict(name="ufm", encoder=stack, patch_position_std=0.3, **images, **words)


def _evaluators(examples: int, learnt: str) -> dict:
    """Held-out cross-entropies, and linear probes; that of topics learns from split `learnt`."""

    def probe(source, train, **options):
        # All of both: some sets are sorted by their labels.
        every: dict[str, Any] = dict(num_examples=10_000, train_examples=10_000)
        if learnt == "val":  # features of few steps are no end of work for Newton's method
            every["steps"] = 5
        sources = dict(source=source, train_source=train)
        return dict(name="linear_probe", options=options, **sources, **every)

    def tempered(source, pipeline, options):
        said = dict(source=source, pipeline=pipeline, options=options, num_examples=examples)
        return dict(name="experiments.tempered", **said)

    test = f"experiments.objects:test?{_DRAWINGS}&length={examples}"
    passages = "demo:text/val"
    return dict(
        words=dict(
            name="mlm",
            source=passages,
            train_source="demo:text/train",
            num_examples=examples,
            options=_WORDS,
        ),
        words_tempered=tempered(passages, "text", _WORDS),
        drawings=dict(name="held_out", like="image", source=test),
        drawings_tempered=tempered(test, "classify", dict(augment="none", num_masked=0, **_PIXELS)),
        objects=probe(test, f"experiments.objects:val?{_DRAWINGS}&length={examples}", **_PIXELS),
        digits=dict(
            name="experiments.drawn_probe",
            source="+".join(f"demo:mnist/{split}" for split in ("train", "val", "test")),
            num_examples=10_000,
            train_examples=500,
            options=_PIXELS,
        ),
        topics=probe("demo:topics/test", f"demo:topics/{learnt}", inputs="text", max_len=32),
    )
