"""The arms of the UFM ablation: changes of the one config beside this file.

All have one model, one recipe and one number of steps; they differ in the streams, in whether
teachers are asked, and in how the two gradients are merged on the shared encoder. The rates are
those of `vit_only`, `bert_only` and `joint`, each chosen alone; every joint arm has the last.
"""

from collections.abc import Mapping
from typing import Any

from experiments.ufm_ablation.config import READERS

CONFIG = "experiments/ufm_ablation/config.py"
RATIO = 4.0  # of the static weights, text to image, where no gate has chosen one
_OTHER = {"image": "text", "text": "image"}
_TRUNK = "encoder/.*"


def arms(
    budget: str = "full", *, rates: Mapping[str, float] | None = None, static: float = RATIO
) -> Mapping[str, dict[str, Any]]:
    """{arm: its changes}.

    Args:
        budget: "full" or "short".
        rates: {"vit", "bert", "joint": learning rate} of the arms of images alone, of text alone,
            and of both; None: that of the config for all.
        static: how many times the weight of images text has in `joint_static`.
    """
    made = _alone_or_together(",short" if budget == "short" else "", static)
    if rates is None:
        return made
    # Its own last: `scratch` learns nothing.
    return {name: _rate(name, rates) | changes for name, changes in made.items()}


def _alone_or_together(short: str, static: float) -> dict[str, dict[str, Any]]:
    both = _taught(short, "image", "text")
    # They sum to 2, as those of `joint` do.
    weights = dict(image=2 / (1 + static), text=2 * static / (1 + static))
    return {
        "scratch": {"total_steps": 1, "optimizer.lr": 0.0},
        "vit_only": _alone("image"),
        "bert_only": _alone("text"),
        "vit_kd": _alone("image") | _taught(short, "image"),
        "bert_kd": _alone("text") | _taught(short, "text"),
        "vit_half": _alone("image") | _half(),
        "bert_half": _alone("text") | _half(),
        "joint": {},
        "joint_kd": both,
        "joint_igm": _igm(),
        "joint_igm_ratio": _igm(score="ratio"),
        "joint_igm_random": _igm(score="random", seed=0),
        "joint_kd_igm": both | _igm(),
        "joint_static": {"merge": dict(name="static", shared=_TRUNK, weights=weights)},
        "joint_per_task_adam": {"merge": dict(name="per_task_adam", shared=_TRUNK)},
        "joint_kd_anneal": _taught(short, "image", "text", weight=dict(name="linear", end=0.0)),
    }


def _rate(name: str, rates: Mapping[str, float]) -> dict[str, Any]:
    who = name.split("_")[0]
    return {"optimizer.lr": rates[who]} if who in rates else {}


def _alone(stream: str) -> dict[str, Any]:
    """One stream, and what can be asked of it."""
    other = _OTHER[stream]
    gone = [f"streams.{other}", *(f"evaluate.evaluators.{name}" for name in READERS[other])]
    return {"gradient_groups": {stream: [stream]}, **dict.fromkeys(gone)}


def _taught(short: str, *streams: str, weight: Any = 1.0) -> dict[str, Any]:
    """Labels and words at weight 1, and what a live teacher says of all classes and words.

    That has the weight 1 as well; a schedule of it begins there.
    """
    of = {"image": ("vit", "image"), "text": ("bert", "mlm")}
    changes: dict[str, Any] = {"teachers": {}}
    for stream in streams:
        name, key = of[stream]
        changes[f"streams.{stream}.objectives.distill"] = dict(weight=weight, teacher=name, of=key)
        config = f"{CONFIG}:{name}{short}"
        changes["teachers"][name] = dict(config=config, streams=[stream])
    return changes


def _half() -> dict[str, Any]:
    """A random half of the entries of the trunk's kernels stays as it started."""
    kernels = dict(shared=f"{_TRUNK}/kernel", share=0.5, seed=0)
    return {"merge": dict(name="experiments.ufm_ablation.half", **kernels)}


def _igm(**options: Any) -> dict[str, Any]:
    chosen = dict(owner="text", t0=0.05, t1=0.5, final_ratio=0.5, **options)
    return {"merge": dict(name="igm", shared=_TRUNK, **chosen)}
