"""Starting a model from foreign weights.

In a config: `c.init = dict(text="roberta:PATH", vision="beit2:PATH")` or `c.init = "xfm:PATH"`.
"""

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from unified_fm.convert import families, matching, resize
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.table import flatten, unflatten

_log = logging.getLogger(__name__)

# What a source given for one part of a model may fill; "all" is everything.
PARTS: dict[str, tuple[str, ...]] = {
    "all": (),
    "text": ("text_embed", "text", "mlm_head"),
    "vision": ("patch_embed", "vision"),
}
_SHOWN = 10


def initialise(
    params: Mapping,
    init: str | Mapping[str, str],
    *,
    heads: int | Mapping[str, int] | None = None,
    allow: Sequence[str] = (),
) -> dict:
    """Replaces parameters of a freshly initialised model by those of checkpoints.

    Position embeddings and relative-position tables are resized to the model's grid. What a source
    has and the model has not (a pooler, a class head) is dropped and logged; of the parts that a
    source is named for, everything must be found unless `allow` covers it.

    Args:
        params: the model's tree; of what is replaced only the shapes count.
        init: `FAMILY:PATH` for the whole model, or {one of `PARTS`: `FAMILY:PATH`}.
        heads: see `families.load`; where nothing tells it, the checkpoint is taken to have as many
            as the model.
        allow: regexes over foreign names and paths of ours that may stay fresh.

    Returns:
        The tree with float32 arrays in place of those that were found.

    Raises:
        ConversionError: a source does not fit the model.
    """
    flat = dict(flatten(params))
    own_heads = {_top(name): np.shape(leaf)[1] for name, leaf in flat.items() if _is_query(name)}
    sources = {"all": init} if isinstance(init, str) else dict(init)
    for part, source in sources.items():
        if part not in PARTS:
            raise ConversionError(f"init of {part!r}; possible: {', '.join(PARTS)}")
        family, path = families.parse(source)
        found = flatten(
            families.load(family, path, heads=heads, fallback_heads=own_heads, allow=allow)
        )
        tops = PARTS[part] or tuple({_top(name) for name in flat})
        used = {name: leaf for name, leaf in found.items() if name in flat and _top(name) in tops}
        _log_dropped(source, [name for name in found if name not in used])
        fresh = [name for name in flat if _top(name) in tops and name not in used]
        may = (*allow, *families.FAMILIES[family].fresh)
        _refuse_fresh(source, [name for name in fresh if not matching.allowed(may, name)], found)
        for name, leaf in used.items():
            flat[name] = fit(name, leaf, np.shape(flat[name]))
    return unflatten(flat)


def fit(name: str, leaf: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter in the shape that the model has: unchanged, or resized to its grid."""
    if leaf.shape == shape:
        return leaf
    resized = leaf
    if name.endswith("/relative_position_bias"):
        resized = resize.resize_table(leaf, (math.isqrt(max(0, shape[0] - 3)) + 1) // 2)
    elif name == "vision/position" and len(shape) == 3:
        resized = resize.resize_position(leaf, math.isqrt(shape[1]))
    if resized.shape != shape:
        raise ConversionError(f"{name}: the checkpoint has {leaf.shape}, the model {shape}")
    _log.info("%s resized from %s to %s", name, leaf.shape, shape)
    return resized


def _is_query(name: str) -> bool:
    return name.endswith("/layer_00/self_attn/query/kernel")


def _top(name: str) -> str:
    return name.split("/")[0]


def _log_dropped(source: str, dropped: list[str]) -> None:
    if dropped:
        more = ", ..." if len(dropped) > _SHOWN else ""
        _log.info("%s: not used: %s%s", source, ", ".join(dropped[:_SHOWN]), more)


def _refuse_fresh(source: str, fresh: list[str], found: Mapping) -> None:
    if fresh:
        lines = [f"{source} lacks {len(fresh)} parameters of the model:"]
        lines += [f"  {name}{matching.nearest(name, found)}" for name in fresh[:_SHOWN]]
        lines.append("cover those that may stay freshly initialised by regexes in `allow`")
        raise ConversionError("\n".join(lines))
