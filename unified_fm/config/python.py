"""Config files: a Python file with `get_config(argument)`.

It is run, so it is only ever read from the path that `--config` names.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_fm import choices, plugins

_LIBRARY = Path(__file__).parents[1]


def read(spec: str) -> dict[str, Any]:
    """Runs `get_config` of a config file.

    Args:
        spec: "FILE.py", the name of one of the library's or of the folder `configs` here
            ("quickstart"), either with ":ARGUMENT" for `get_config`.

    Returns:
        What it returned, as plain dicts.

    Raises:
        ValueError: no such file, one without `get_config`, or one that fails: with its own error.
    """
    name, _, argument = spec.partition(":")
    path = _found(name)
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise ValueError(f"{name!r} is no Python file (its name must end with .py)")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if "get_config" not in vars(module):
            raise ValueError("it has no function get_config")
        if argument and not plugins.parameters(module.get_config).known:
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


def folders() -> list[Path]:
    """Where a config is looked for that is named without a path: the library's, then ./configs."""
    own = _LIBRARY / "configs"  # of a wheel; in a clone they lie beside the library
    return [own if own.is_dir() else _LIBRARY.parent / "configs", Path("configs")]


def _found(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix or path.is_absolute():
        raise ValueError(f"no config file {name!r}")
    for folder in folders():
        if (file := folder / f"{name}.py").is_file():
            return file
    files = ((folder, file) for folder in folders() for file in folder.rglob("*.py"))
    known = {file.relative_to(folder).with_suffix("").as_posix() for folder, file in files}
    known = {each for each in known if not each.endswith("__init__")}
    raise ValueError(f"no config is named {name!r}; {choices.possible(name, known)}")
