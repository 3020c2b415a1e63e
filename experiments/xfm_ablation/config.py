"""The full arm of the X-FM ablation; `arms.py` has the others as changes of it.

The quick start (`configs/quickstart.py`) with more text in a step, for more steps, and asked more:
at its own length words are hardly better than their frequencies, so nothing could be lost on them.
"""

from collections.abc import Mapping
from typing import Any

from configs import quickstart
from unified_fm.config import overrides, python, settings

STEPS = 3000
_SHORT = 6
# What is learnt of the images of `image` and `pairs` alone, masked: the specialist, and a teacher.
_LEARNT = ("itc", "itm", "imlm", "mim")
_UNASKED = ("words", "topics", "retrieval", "itm", "imlm", "grounding")
IMAGE_ONLY: Mapping[str, Any] = {
    **dict.fromkeys(["streams.text", "streams.regions", "streams.image.objectives.mim"]),
    **dict.fromkeys(f"streams.pairs.objectives.{name}" for name in _LEARNT),
    **{f"streams.{name}.objectives.pixels": 1.0 for name in ("image", "pairs")},
    **dict.fromkeys(f"evaluate.evaluators.{name}" for name in _UNASKED),
}


def get_config(argument: str = "") -> dict[str, Any]:
    """The config, as plain dicts.

    Args:
        argument: any of "steps=N" (3,000), "image_only", the teacher of an arm, and "short", a few
            steps, which show nothing; joined by commas.
    """
    settings.start(argument, known=("image_only", "short", "steps="))  # refuses other words
    words = argument.split(",")
    short = "short" in words
    c = quickstart.get_config()
    c.prepare = "demo:text,tokenizer,objects,mnist,topics,groups"
    c.total_steps = _SHORT if short else settings.number(argument, "steps", STEPS)
    c.streams.text.batch_size = 64
    c.evaluate = dict(evaluators=_evaluators(short))
    c.log.tensorboard = c.report = False
    changes = IMAGE_ONLY if "image_only" in words else {}
    return overrides.apply(python.plain(c), [(path, str(v)) for path, v in changes.items()])


def _evaluators(short: bool) -> dict[str, Any]:
    """What every run is asked at its end; `endpoints.py` makes of it what the rules speak of."""
    passages, images, scenes = (200, 200, 100) if short else (None, 2000, 2000)
    pixels = quickstart.PIXELS
    words = dict(max_len=quickstart.PASSAGE, max_masked=6)
    scenery = dict(
        source="demo:scenes/test?length=2000",
        num_examples=scenes,
        options=dict(max_len=quickstart.CAPTION, **pixels),
    )

    def probe(source, train, count, **options):
        """Few labels and many questions, as far as the data are few: so the test is less noisy."""
        both: dict[str, Any] = dict(num_examples=count, train_examples=count or 10_000)
        if short:  # features of a model that learnt nothing are no end of work for Newton's method
            both["steps"] = 5
        sources = dict(source=source, train_source=train)
        return dict(name="linear_probe", options=options, **sources, **both)

    seen = f"length={images}"
    digits = ("demo:mnist/train+demo:mnist/test", "demo:mnist/val")
    emoji = ("demo:groups/train", "demo:groups/val+demo:groups/test")
    topics = ("demo:topics/val+demo:topics/test", "demo:topics/train")
    every = images if short else None
    return dict(
        words=dict(
            name="mlm",
            source="demo:text/val",
            train_source="demo:text/train",
            num_examples=passages,
            options=words,
        ),
        topics=probe(*topics, every, inputs="text", max_len=quickstart.PASSAGE),
        digits=probe(*digits, every, **pixels),
        emoji=probe(*emoji, every, **pixels),
        objects=probe(
            *(f"experiments.objects:{split}?{seen}" for split in ("test", "val")), images, **pixels
        ),
        spread=dict(
            name="experiments.feature_sd",
            source=f"experiments.objects:test?{seen}",
            num_examples=images,
            pipeline="classify",
            options=pixels,
        ),
        # Few captions describe many scenes: one that reads the same is no mistake.
        retrieval=dict(candidates=50 if short else 500, same="texts", ranks=(1,), **scenery),
        itm=scenery,
        imlm=scenery,
        grounding=scenery,
    )
