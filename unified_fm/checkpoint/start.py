"""The state a run starts with: fresh, from the parameters of a file, or from its own checkpoint."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np

from unified_fm import rules, step
from unified_fm.checkpoint import diff as tree_diff
from unified_fm.checkpoint import foreign_weights
from unified_fm.checkpoint.store import load_params
from unified_fm.config import settings
from unified_fm.convert.table import unflatten
from unified_fm.spikes import Spikes

_log = logging.getLogger(__name__)


def merge(fresh: Any, found: Any, *, allow: Sequence[str] = (), source: Any = "the file") -> Any:
    """Replaces freshly initialised parameters by those found in a file.

    Args:
        fresh: the parameters of this run, on their devices.
        found: nested dict of NumPy arrays.
        allow: regexes of whole paths. A parameter that matches may be missing in the file or have
            another shape there (the fresh one is kept), and may be in the file alone (left out).
        source: the name of the file, for the message.

    Returns:
        The tree of `fresh`, sharded as `fresh` is.

    Raises:
        ValueError: other arrays or shapes than wanted that `allow` does not name.
    """
    wanted, saved = tree_diff.shapes(fresh), tree_diff.shapes(found)
    usable = {name for name in wanted if wanted[name] == saved.get(name)}
    allowed = {
        name
        for name in (set(wanted) | set(saved)) - usable
        if any(re.fullmatch(pattern, name) for pattern in allow)
    }
    lines = tree_diff.shape_differences(
        {name: shape for name, shape in saved.items() if name not in allowed},
        {name: shape for name, shape in wanted.items() if name not in allowed},
    )
    if lines:
        title = f"{source} does not fit this model (init.allow lists paths that may differ):"
        raise ValueError(tree_diff.message(title, lines))
    arrays = dict(rules.named_leaves(found))

    def leaf(path, param):
        name = rules.path_name(path)
        if name not in usable:
            return param
        array = np.asarray(arrays[name], param.dtype)
        return jax.make_array_from_callback(param.shape, param.sharding, lambda i: array[i])

    return jtu.tree_map_with_path(leaf, fresh)


def renamed(found: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Renames parameters by the first pair (regex of the whole path, replacement) that fits each.

    So a UFM starts from its image teacher: `("vision/(layer_.*|norm/.*)", r"encoder/\1")`.
    """
    leaves = {}
    for name, leaf in rules.named_leaves(found):
        fitting = (pair for pair in pairs if re.fullmatch(pair[0], name))
        pattern, replacement = next(fitting, (None, None))
        leaves[re.sub(pattern, replacement, name) if pattern else name] = leaf
    return unflatten(leaves)


def fresh_state(config, program, tx, shardings, teacher_params, batches) -> step.TrainState:
    """The state of step 0, from the seed or from another run's parameters."""
    init = jax.jit(lambda t, b: step.init_params(program, t, b), out_shardings=shardings.params)
    params = init(teacher_params, batches)
    if foreign_weights.is_foreign(config["init"]):
        params = foreign_weights.start(params, config["init"])
    elif config["init"]:
        source = dict(config["init"])
        found = load_params(source["path"], source.get("step"))
        found = renamed(found, source.get("rename") or ())
        params = merge(params, found, allow=source.get("allow", ()), source=source["path"])
    seen = Spikes(**config["spikes"])
    make = jax.jit(
        lambda params: step.init_state(params, tx, ema=config["ema"] is not None, spikes=seen),
        out_shardings=shardings,
    )
    return make(params)


def restored_state(config, checkpoints, target) -> tuple[step.TrainState, Any]:
    """The state and the streams' position of the latest checkpoint that can be read."""
    steps = checkpoints.steps()[::-1]
    for number, at in enumerate(steps):
        try:
            changes = settings.data_changes(checkpoints.saved_config(at), _as_json(config))
            if changes and not config["checkpoint"]["allow_changes"]:
                shown = "\n  ".join(changes)
                raise ValueError(
                    f"checkpoint {checkpoints.directory / str(at)} was saved with other settings:\n"
                    f"  {shown}\nTo go on nevertheless: --config.checkpoint.allow_changes=True"
                )
            state, position = checkpoints.restore(target, at)
        except ValueError as error:
            if not config["checkpoint"]["allow_fallback"] or number + 1 == len(steps):
                raise
            _log.error("%s\nGoing back to step %d", error, steps[number + 1])
            continue
        _log.info("resumed from step %d", at)
        return state, position
    raise ValueError(f"no checkpoint in {checkpoints.directory}")


def _as_json(config: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(config))
