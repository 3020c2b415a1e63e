"""Starting from the weights of other libraries, as a config says it.

    c.init = "xfm:PATH"
    c.init = dict(text="roberta:PATH", vision="beit2:PATH", allow=["text_embed/position/.*"])
    c.teachers.bert = dict(init="bert:PATH", streams=["text"])

A source is `FAMILY:PATH` (`convert.families`). `heads` may say how many heads a file without
`config.json` has; `allow` lists regexes of parameters that may stay fresh.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np

from unified_fm import plugins, rules
from unified_fm.convert import families, hf_models, initialise
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers import weights

_OURS = ("path", "step", "rename", "allow")
_FOREIGN = (*initialise.PARTS, "heads", "allow")


def is_foreign(init: Any) -> bool:
    """Whether a setting `init` names weights of another library, not a checkpoint of ours."""
    return isinstance(init, str) or (isinstance(init, Mapping) and "path" not in init)


def check(init: Any, where: str) -> None:
    """Refuses a setting `init` that cannot work; looks at names and files, opens nothing.

    Args:
        init: the setting; None is "fresh".
        where: its name, for messages.

    Raises:
        ValueError, TypeError: what was wrong, what is possible.
    """
    if not init:
        return
    if not isinstance(init, str | Mapping):
        raise TypeError(f"config.{where} is 'FAMILY:PATH' or a dict, found {init!r}")
    for key in init if isinstance(init, Mapping) else ():
        known = (*_FOREIGN, "path") if is_foreign(init) else _OURS
        if key not in known:
            raise ValueError(f"config.{where} has no key {key!r}; {plugins.possible(key, known)}")
    for source in _sources(init).values() if is_foreign(init) else ():
        try:
            _, path = families.parse(source)
            path = path if path.startswith("hf:") else families.fetch(path)
        except ConversionError as error:
            raise ValueError(f"config.{where}: {error}") from error
        if not path.startswith("hf:") and not os.path.exists(path):
            raise ValueError(f"config.{where}: there is no file or folder {path}")


def start(fresh: Any, init: Any) -> Any:
    """Replaces freshly initialised parameters by those of foreign weights.

    Args:
        fresh: the parameters of this run, on their devices.
        init: a setting for which `is_foreign` holds.

    Returns:
        The tree of `fresh`, sharded as `fresh` is.

    Raises:
        ConversionError, CheckpointFormatError: the weights cannot be read or do not fit.
    """
    options = init if isinstance(init, Mapping) else {}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), fresh)
    heads, allow = options.get("heads"), options.get("allow") or ()
    tree = initialise.initialise(shapes, _sources(init), heads=heads, allow=allow)
    found = dict(rules.named_leaves(tree))

    def leaf(path, param):
        array = found[rules.path_name(path)]
        if not isinstance(array, np.ndarray):
            return param
        array = array.astype(param.dtype)
        return jax.make_array_from_callback(param.shape, param.sharding, lambda i: array[i])

    return jtu.tree_map_with_path(leaf, fresh)


def model_of(init: Any) -> dict[str, Any] | None:
    """The name and options of the model that runs the weights, if a `config.json` tells them."""
    if not isinstance(init, str):
        return None
    config = weights.read_config(families.fetch(families.parse(init)[1]))
    return hf_models.model_options(config) if config else None


def _sources(init: str | Mapping[str, Any]) -> dict[str, str]:
    if isinstance(init, str):
        return {"all": init}
    return {part: source for part, source in init.items() if part in initialise.PARTS}
