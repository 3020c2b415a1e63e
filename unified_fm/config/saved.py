"""The one door for the configs that runs have saved: they may come from a stranger.

A run writes its config into WORKDIR/config.json. Reading JSON runs nothing, but what is built of it
would: a dotted plugin name is a module to import. So `read` refuses every plugin that is neither
the library's nor in a module that the user has named now, by `--plugins=my_project` or in the
config of `--config`. Whoever builds something of a saved config gets it from here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from unified_fm import plugins

# Under these keys stand the names of plugins ...
_NAMES = ("name", "pipeline")
# ... under these dicts whose keys are such names, where the value has no "name" ...
_NAMED = ("objectives", "evaluators")
# ... and under these, strings "PLUGIN:ARGUMENTS", joined by "+".
_SOURCES = ("source", "train_source")
# Sources of a part of another one: PLUGIN:HOW MUCH:SOURCE.
_HOLDING = ("few",)


def read(folder: Any, modules: Sequence[str]) -> dict[str, Any]:
    """The config of the run in a folder.

    Args:
        folder: with `config.json`.
        modules: those whose plugins it may name, beside the library's.

    Raises:
        ValueError: it is no JSON object. FileNotFoundError: there is none.
        plugins.Unnamed: it names a plugin of another module.
    """
    file = epath.Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text())
        names = list(named(config))
    except (ValueError, RecursionError) as error:  # a text that is not UTF-8 is a ValueError too
        raise ValueError(f"{file} is not JSON of a config: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold an object, found {type(config).__name__}")
    for place, name in names:
        plugins.refuse_unnamed(name, f"{file}: {place}", modules)
    return {**config, "plugins": list(modules)}  # what it says itself about that counts nothing


def workdir_of(path: Any) -> epath.Path | None:
    """The run that a path is: the folder itself, or above RUN/checkpoints/8000. None: no run."""
    path = epath.Path(path)
    folders = (path, *list(path.parents)[:2])
    return next((folder for folder in folders if (folder / "config.json").exists()), None)


def teachers(folder: Any) -> Mapping[str, Any]:
    """{name: settings} of the teachers of the run in a folder, as data: nothing is built of it.

    Empty where there is no run, or its config is none.
    """
    try:
        found = json.loads((epath.Path(folder) / "config.json").read_text())["teachers"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    if not isinstance(found, Mapping):
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, Mapping)}


def modules_of(config: Mapping[str, Any]) -> list[str]:
    """The modules that the user's own config names, as its plugins or in its setting `plugins`."""
    found = [name for _, name in named(config) if "." in name]
    return list(dict.fromkeys([*config.get("plugins", ()), *found]))


def named(config: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yields (place, name) of every plugin that a config names, at whatever depth it stands.

    Looks at keys only, so it needs no plugin to know where another one may stand; a string that is
    none (the name of a schedule) does no harm, since only dotted ones count.
    """
    if isinstance(config, list | tuple):
        for number, value in enumerate(config):
            yield from named(value, f"{place}[{number}]")
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        where = f"{place}.{key}" if place else str(key)
        if key in _NAMES and isinstance(value, str):
            yield where, value
        elif key in _NAMED and isinstance(value, Mapping):
            own = (name for name, entry in value.items() if not _has_name(entry))
            yield from ((f"{where}.{name}", str(name)) for name in own)
        elif key in _SOURCES:
            yield from ((where, prefix) for prefix in _prefixes(value))
        yield from named(value, where)


def _has_name(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "name" in entry


def _prefixes(source: Any) -> Iterator[str]:
    """All plugins that a source names: what it joins by "+", and what it takes its records from.

    A "+" within the arguments is taken for one too.
    """
    texts = [source] if isinstance(source, str) else source
    if not isinstance(texts, list | tuple):
        return
    for part in (part for text in texts if isinstance(text, str) for part in text.split("+")):
        prefix, colon, rest = part.partition(":")
        while colon:
            yield prefix
            if prefix.rpartition(".")[2] not in _HOLDING:
                break
            prefix, colon, rest = rest.partition(":")[2].partition(":")
