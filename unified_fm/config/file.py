"""From a config file and the command line to checked settings: the one way for every caller."""

from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import plugins as registry
from unified_fm.config import checks, linked, overrides, python, saved
from unified_fm.config import of_run as other_runs
from unified_fm.config.settings import Settings
from unified_fm.data.pipelines import base as pipelines
from unified_fm.evaluators.base import HeldOut


def load(
    spec: str, changes: Sequence[str] = (), *, plugins: Sequence[str] = (), mesh: bool = True
) -> Settings:
    """Reads a config file, applies changes, fills in defaults, and checks the whole.

    Args:
        spec: "FILE.py:ARGUMENT" or "NAME:ARGUMENT", see `python.read`.
        changes: "optimizer.lr=0.1"; see `overrides.apply`.
        plugins: modules whose plugins a saved config may name, beside those of the setting.
        mesh: whether the mesh must divide the batches; `planning.meshes` says which does.

    Raises:
        ValueError, TypeError: what was wrong, what was found, what is possible.
    """
    parted = [(path, text) for path, _, text in (change.partition("=") for change in changes)]
    given = python.read(spec)
    rest = [change for change in parted if not other_runs.taken(given, change)]
    given = other_runs.filled(other_runs.changed(given, parted), plugins)
    given = overrides.apply(given, rest)
    return made(given, plugins=plugins, mesh=mesh)


def of_run(
    folder: str,
    changes: Sequence[str] = (),
    *,
    plugins: Sequence[str] = (),
    other: tuple[str, str] | None = None,
) -> Settings:
    """The settings that a run has saved, to evaluate it: it starts from nothing but itself.

    Args:
        folder: its workdir.
        changes, plugins: as of `load`.
        other: (name, source) in place of its evaluators: its evaluator of that name, or the
            library's with the sizes of the run's stream; under another name the one that measures
            `checkpoint.best`, or else the first. It reads the source instead of its own.

    Raises:
        ValueError, TypeError: as `load`; or no config in the folder.
    """
    try:
        given = saved.read(folder, plugins)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is no workdir of a run: it has no config.json") from error
    given = {**given, "init": None}
    if other is not None:
        evaluate = given.get("evaluate", {})
        entry = _evaluator(given, folder, other[0])
        given["evaluate"] = {**evaluate, "evaluators": {other[0]: {**entry, "source": other[1]}}}
    parted = [(path, text) for path, _, text in (change.partition("=") for change in changes)]
    return made(overrides.apply(given, parted), plugins=plugins)


def _evaluator(given: Mapping[str, Any], folder: str, wanted: str) -> dict[str, Any]:
    """The evaluator, with its name, of which another source is asked; see `of_run`."""
    known = {
        name: {"name": name, **entry}
        for name, entry in given.get("evaluate", {}).get("evaluators", {}).items()
        if "source" in entry
    }
    if wanted in known:
        return known[wanted]
    if wanted in registry.names("evaluators"):
        own = next((entry for entry in known.values() if entry["name"] == wanted), None)
        own = own or _of_library(given, folder, wanted)
        if own is not None:
            return own
    if not known:
        raise ValueError(f"the run in {folder} has no evaluator that could read another source")
    best = str(given.get("checkpoint", {}).get("best")).partition("/")[0]
    return known.get(best) or next(iter(known.values()))


def _of_library(given: Mapping[str, Any], folder: str, name: str) -> dict[str, Any] | None:
    """An evaluator of the library on a whole set, with the sizes of a stream of its pipeline.

    None: it reads no pipeline of its own.

    Raises:
        ValueError: the run has no such stream.
    """
    plugin = registry.load("evaluators", name)
    if not isinstance(plugin, type) or not issubclass(plugin, HeldOut):
        return None
    streams = given.get("streams", {})
    own = [stream for stream in streams.values() if stream["pipeline"] == plugin.pipeline]
    if not own:
        found = ", ".join(f"{key}: {stream['pipeline']}" for key, stream in streams.items())
        raise ValueError(
            f"the run in {folder} has no stream of the pipeline {plugin.pipeline!r}, whose sizes "
            f"the evaluator {name!r} would read with; its streams are {found or 'none'}"
        )
    fixed = (*HeldOut.option_defaults, "tokenizer")
    options = {
        key: own[0][key]
        for key in pipelines.options_of(pipelines.load(plugin.pipeline))
        if key in own[0] and key not in fixed
    }
    return {"name": name, **plugin.whole, "options": options}


def made(given: Mapping[str, Any], *, plugins: Sequence[str] = (), mesh: bool = True) -> Settings:
    """Checked settings from plain dicts; a teacher's config file is read in. See `load`."""
    given = linked.filled(other_runs.filled(given, plugins))
    settings = _with_plugins(Settings.of({**given, **_teachers(given, plugins)}), plugins)
    settings = settings.replace(
        teachers={
            name: teacher.replace(config=_with_plugins(teacher.config, plugins))
            if isinstance(teacher.config, Settings)
            else teacher
            for name, teacher in settings.teachers.items()
        }
    )
    for each in (settings, *settings.own_runs().values()):
        checks.check(each, mesh=mesh)
    return settings


def _with_plugins(settings: Settings, plugins: Sequence[str]) -> Settings:
    return settings.replace(plugins=[*settings.plugins, *plugins])


def _teachers(given: Mapping[str, Any], plugins: Sequence[str]) -> dict[str, Any]:
    """The entry `teachers` with complete settings in place of the names of config files."""
    entries = given.get("teachers")
    if not isinstance(entries, Mapping):
        return {}  # refused by its type
    found = {}
    for name, entry in entries.items():
        own = entry.get("config") if isinstance(entry, Mapping) else None
        if own:
            place = f"config.teachers.{name}.config"
            try:
                own = python.read(own) if isinstance(own, str) else own
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            if isinstance(own, Mapping):
                own = linked.filled(other_runs.filled(own, plugins, place), place)
            entry = {**entry, "config": Settings.of(own, place)}
        found[name] = entry
    return {"teachers": found}
