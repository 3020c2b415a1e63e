"""Learning rates that fall with the depth of a layer, as in the fine-tuning of ELECTRA and BEiT.

What lies far below the head knows least of the task and should be disturbed least: each layer has
the rate of the one above times `decay` (ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254).
"""

from unified_fm import choices
from unified_fm.rules import Rules

# What lies below the layers of a stack. The fusion encoder starts from states of the text encoder.
_TEXT, _IMAGE = "text_embed/.*", "patch_embed/.*|vision/[^/]*(token|position)"
_BELOW = {
    "text": _TEXT,
    "vision": _IMAGE,
    "encoder": f"{_TEXT}|{_IMAGE}|modality_embed/.*",
    "fusion": None,
}


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
