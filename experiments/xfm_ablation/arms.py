"""The arms of the X-FM ablation: changes of the one config beside this file.

All have one model, one recipe and one number of steps. A stream's data are a function of the seed
and of its name, so whoever has a stream is shown the same batches of it as everybody else.
"""

from collections.abc import Mapping
from typing import Any

from experiments.xfm_ablation.config import IMAGE_ONLY, STEPS

CONFIG = "experiments/xfm_ablation/config.py"
# Of these the rules speak, and these are run on a CPU; the other arms are exploratory.
COUNTED = ("full", "no_stop", "text_only", "image_only", "no_mim", "mim_frozen")
_FUSED = dict(pairs=("itm", "imlm"), regions=("itm", "imlm", "bbox"))
_DECAY = 0.995  # of the average that teaches: over some 200 steps
_OF_IMAGES = ("digits", "emoji", "objects", "spread", "retrieval", "itm", "imlm", "grounding")


def spec(budget: str = "full", steps: int = STEPS, who: str = "") -> str:
    """Of the config file, for `config.file.load`: that of `full`, or of another that it knows."""
    length = "short" if budget == "short" else f"steps={steps}"
    return f"{CONFIG}:{','.join(filter(None, [who, length]))}"


def arms(budget: str = "full", steps: int = STEPS) -> Mapping[str, dict[str, Any]]:
    """{arm: its changes} of a budget, "full" or "short", and a number of steps.

    These are needed where an arm has a teacher: it is trained for as many.
    """
    no_stop = {
        f"streams.{stream}.objectives.{name}.stop_text_gradient": False
        for stream, names in _FUSED.items()
        for name in names
    }
    stop_itc = {f"streams.{name}.objectives.itc.stop_text_gradient": True for name in _FUSED}
    no_mim = _without("streams.image", "streams.pairs.objectives.mim")
    no_images = [f"streams.{name}" for name in ("image", "pairs", "regions")]
    teacher = dict(config=spec(budget, steps, "image_only"), streams=["image", "pairs"])
    frozen = _of_masked("mim.target", "teacher:image_only")
    return {
        "full": {},
        "no_stop": no_stop,
        "stop_all": stop_itc,
        "text_only": _without(*no_images, *(f"evaluate.evaluators.{e}" for e in _OF_IMAGES)),
        # A specialist has no other language to keep: as X-VLM, it stops nothing.
        "vl_only": no_stop | no_mim | _without("streams.text", "evaluate.evaluators.words"),
        "image_only": dict(IMAGE_ONLY),
        "no_mim": no_mim,
        "mim_pixels": _of_masked("mim", None) | _of_masked("pixels", 1.0),
        "mim_frozen": frozen | {"teachers.image_only": teacher},
        "mim_ema": _of_masked("mim.target", "ema") | {"ema": _DECAY},
        "no_regions": _without("streams.regions", "evaluate.evaluators.grounding"),
    }


def _without(*paths: str) -> dict[str, Any]:
    return dict.fromkeys(paths)


def _of_masked(objective: str, value: Any) -> dict[str, Any]:
    """An objective, or an option of one, of the two streams whose images are masked."""
    return {f"streams.{name}.objectives.{objective}": value for name in ("image", "pairs")}
