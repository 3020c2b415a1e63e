"""Learning rates that fall with the depth of a layer, as in the fine-tuning of ELECTRA and BEiT.

What lies far below the head knows least of the task and should be disturbed least: each layer has
the rate of the one above times `decay` (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254).

    c.rules.lr_scale = "layerwise:0.65"     of whatever encoders the model has, see `of_params`
"""

import math
import re
from typing import Any

from unified_fm import choices, rules
from unified_fm.rules import Rules

NAME = "layerwise:"
# What lies below the layers of a stack. The fusion encoder starts from states of the text encoder.
_TEXT, _IMAGE = "text_embed/.*", "patch_embed/.*|vision/[^/]*(token|position)|vision/pre_norm/.*"
_BELOW = {
    "text": _TEXT,
    "vision": _IMAGE,
    "encoder": f"{_TEXT}|{_IMAGE}|modality_embed/.*",
    "fusion": None,
}
_LAYER = re.compile(r"([^/]+)/layer_(\d+)/.*")


def layerwise(stack: str, layers: int, decay: float) -> Rules:
    """Rules of `lr_scale` for one stack: 1 in the last layer, and less in every one below.

    They say nothing about other parameters (heads, the norm after the stack), so a list goes on:

        c.rules.lr_scale = [("nlvr2_head/.*", 2.0), *layerwise("text", 12, 0.9), (".*", 1.0)]

    Args:
        stack: "text", "vision", "encoder" (UFM's) or "fusion".
        layers: how many it has.
        decay: of the rate from one layer to the next below, in (0, 1]; 1 changes nothing.

    Returns:
        `(path regex, scale)`: layer i has decay^(layers - 1 - i), the embeddings decay^layers.

    Raises:
        ValueError: another stack, no layers, or a decay out of range.
    """
    choices.check("layerwise: stack", stack, _BELOW)
    if layers < 1 or not 0 < decay <= 1:
        raise ValueError(
            f"layerwise: layers is at least 1 and decay in (0, 1], found {layers!r} and {decay!r}"
        )
    found = [(f"{stack}/layer_{i:02d}/.*", decay ** (layers - 1 - i)) for i in range(layers)]
    below = _BELOW[stack]
    return found if below is None else [*found, (below, decay**layers)]


def decay_of(text: str) -> float:
    """The decay that "layerwise:DECAY" names.

    Raises:
        ValueError: no number in (0, 1].
    """
    try:
        decay = float(text.removeprefix(NAME))
    except ValueError:
        decay = math.nan
    if not 0 < decay <= 1:
        raise ValueError(f"{NAME}DECAY needs a number in (0, 1], found {text!r}")
    return decay


def of_params(params: Any, decay: float) -> Rules:
    """Rules of `lr_scale` for all encoders that a model has, however deep, each by itself.

    Args:
        params: the parameter tree, or its shapes.
        decay: as of `layerwise`.

    Returns:
        A whole list. Of L layers layer i has decay^(L - i), so the last one is a step below the
        head, and the embeddings decay^(L + 1); heads and the norm after a stack have 1.

    Raises:
        ValueError: no layers of any encoder.
    """
    depth: dict[str, int] = {}
    for match in filter(None, map(_LAYER.fullmatch, rules.names(params))):
        depth[match[1]] = max(depth.get(match[1], 0), int(match[2]) + 1)
    stacks = [stack for stack in _BELOW if stack in depth]
    if not stacks:
        tops = sorted({name.split("/")[0] for name in rules.names(params)})
        raise ValueError(
            f"{NAME}{decay:g} needs an encoder of layers ({', '.join(_BELOW)}); the model has"
            f" {', '.join(tops)}"
        )
    below = [rule for stack in stacks for rule in layerwise(stack, depth[stack], decay)]
    return [*((path, decay * scale) for path, scale in below), (".*", 1.0)]
