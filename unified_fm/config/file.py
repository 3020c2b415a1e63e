"""Config files: a Python file with `get_config(argument)`.

It is run, so it is only ever read from the path that `--config` names.
"""

import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def load(spec: str) -> dict[str, Any]:
    """Runs `get_config` of a config file.

    Args:
        spec: "FILE.py", or "FILE.py:ARGUMENT", which is given to `get_config`.

    Returns:
        What it returned, as plain dicts.

    Raises:
        ValueError: no such file, one without `get_config`, or one that fails: with its own error.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"no config file {path!r}")
    module_spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"{path!r} is no Python file (its name must end with .py)")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it has no function get_config")
        if argument and not inspect.signature(module.get_config).parameters:
            raise ValueError(f"it takes no argument after ':', found {argument!r}")
        return plain(module.get_config(argument) if argument else module.get_config())
    except Exception as error:  # the file may raise anything
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def plain(config: Any) -> Any:
    """Nested dicts, lists and numbers in place of ConfigDict."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(plain(value) for value in config)
    return config
