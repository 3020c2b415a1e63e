"""Config files and what the command line changes in them.

A config is a Python file with `get_config(argument)`; it is run, so it is only ever read from the
path that `--config` names. Overrides keep the type of the value they replace.
"""

import ast
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_fm import plugins


def load(spec: str) -> dict[str, Any]:
    """Runs `get_config` of a config file.

    Args:
        spec: "FILE.py", or "FILE.py:ARGUMENT", which is given to `get_config`.

    Returns:
        What it returned, as plain dicts.

    Raises:
        ValueError: no such file, or one without `get_config`. Whatever the file itself raises.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"no config file {path!r}")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"{path!r} is no Python file (its name must end with .py)")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no function get_config")
    if argument and not inspect.signature(module.get_config).parameters:
        raise ValueError(f"{path} takes no argument after ':', found {argument!r}")
    return plain(module.get_config(argument) if argument else module.get_config())


def plain(config: Any) -> Any:
    """Nested dicts, lists and numbers in place of ConfigDict."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(plain(value) for value in config)
    return config


def override(config: dict[str, Any], path: str, text: str) -> None:
    """Sets the value at a dotted path, in place.

    Args:
        config: nested dicts.
        path: such as "optimizer.lr"; it must exist.
        text: the value, read as the type of the value there. "None" is None; a value that was None
            takes any type.

    Raises:
        ValueError: no such key, with the nearest one, or a text of another type.
    """
    here, place = config, "config"
    *parents, last = path.split(".")
    for key in [*parents, last]:
        known = list(here) if isinstance(here, Mapping) else []
        if key not in known:
            raise ValueError(f"{place} has no key {key!r}; {plugins.possible(key, known)}")
        owner, here, place = here, here[key], f"{place}.{key}"
    owner[last] = _read(place, text, here)


def _read(place: str, text: str, before: Any) -> Any:
    """The value of `text` as the type of `before`."""
    value = _literal(text)
    if value is None or before is None:
        return value
    if isinstance(before, str):
        return text
    kinds = {
        bool: bool,
        int: int,
        float: (int, float),
        Mapping: Mapping,
        (list, tuple): (list, tuple),
    }
    for kind, accepted in kinds.items():
        if isinstance(before, kind):
            right = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
            if right:
                return type(before)(value)
            break
    raise ValueError(f"{place} is {before!r} ({type(before).__name__}), so {text!r} cannot be set")


def _literal(text: str) -> Any:
    words = {"true": True, "false": False}
    if text in words:
        return words[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
