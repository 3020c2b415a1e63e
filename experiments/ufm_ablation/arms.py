"""The arms of the UFM ablation: changes of the one config beside this file.

All have one model, one recipe and one number of steps; they differ in the streams, in whether
teachers are asked, and in how the two gradients are merged on the shared encoder.
"""

from collections.abc import Mapping
from typing import Any

from experiments.ufm_ablation.config import READERS

CONFIG = "experiments/ufm_ablation/config.py"
_OTHER = {"image": "text", "text": "image"}


def _alone(stream: str) -> dict[str, Any]:
    """One stream, and what can be asked of it."""
    other = _OTHER[stream]
    gone = [f"streams.{other}", *(f"evaluate.evaluators.{name}" for name in READERS[other])]
    return {"gradient_groups": {stream: [stream]}, **dict.fromkeys(gone)}


def _taught(short: str, *streams: str) -> dict[str, Any]:
    """Labels and words at weight 1, and what a live teacher says of all classes and words at 1."""
    of = {"image": ("vit", "image"), "text": ("bert", "mlm")}
    changes: dict[str, Any] = {"teachers": {}}
    for stream in streams:
        name, key = of[stream]
        changes[f"streams.{stream}.objectives.distill"] = dict(weight=1.0, teacher=name, of=key)
        config = f"{CONFIG}:{name}{short}"
        changes["teachers"][name] = dict(config=config, streams=[stream])
    return changes


def _igm(**options: Any) -> dict[str, Any]:
    chosen = dict(owner="text", t0=0.05, t1=0.5, final_ratio=0.5, **options)
    return {"merge": dict(name="igm", shared="encoder/.*", **chosen)}


def arms(budget: str = "full") -> Mapping[str, dict[str, Any]]:
    """{arm: its changes} of a budget, "full" or "short"."""
    short = ",short" if budget == "short" else ""
    both = _taught(short, "image", "text")
    weights = dict(image=0.4, text=1.6)  # of ratio 4, until a sweep has chosen one
    return {
        "scratch": {"total_steps": 1, "optimizer.lr": 0.0},
        "vit_only": _alone("image"),
        "bert_only": _alone("text"),
        "vit_kd": _alone("image") | _taught(short, "image"),
        "bert_kd": _alone("text") | _taught(short, "text"),
        "joint": {},
        "joint_kd": both,
        "joint_igm": _igm(),
        "joint_igm_ratio": _igm(score="ratio"),
        "joint_igm_random": _igm(score="random", seed=0),
        "joint_kd_igm": both | _igm(),
        "joint_static": {"merge": dict(name="static", shared="encoder/.*", weights=weights)},
    }
