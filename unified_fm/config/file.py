"""From a config file and the command line to checked settings: the one way for every caller."""

from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm.config import checks, of_run, overrides, python
from unified_fm.config.settings import Settings


def load(spec: str, changes: Sequence[str] = (), *, plugins: Sequence[str] = ()) -> Settings:
    """Reads a config file, applies changes, fills in defaults, and checks the whole.

    Args:
        spec: "FILE.py:ARGUMENT" or "NAME:ARGUMENT", see `python.read`.
        changes: "optimizer.lr=0.1"; see `overrides.apply`.
        plugins: modules whose plugins a saved config may name, beside those of the setting.

    Raises:
        ValueError, TypeError: what was wrong, what was found, what is possible.
    """
    parted = [(path, text) for path, _, text in (change.partition("=") for change in changes)]
    given = python.read(spec)
    # Which run the model is of decides which options it has, so it is looked up before they are.
    for _, run in (change for change in parted if change[0] == "model.of"):
        given = {**given, "model": {**given.get("model", {}), "of": run}}
    given = of_run.filled(given, plugins)
    given = overrides.apply(given, [change for change in parted if change[0] != "model.of"])
    return made(given, plugins=plugins)


def made(given: Mapping[str, Any], *, plugins: Sequence[str] = ()) -> Settings:
    """Checked settings from plain dicts; a teacher's config file is read in. See `load`."""
    given = of_run.filled(given, plugins)
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
        checks.check(each)
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
            own = of_run.filled(own, plugins, place) if isinstance(own, Mapping) else own
            entry = {**entry, "config": Settings.of(own, place)}
        found[name] = entry
    return {"teachers": found}
