"""What the command line changes in a config: `--config.a.b=v`.

Any option can be set that exists at its place, whether the config file spells it out or not. The
order on the command line does not matter: a whole dict comes before what is inside it, and the name
of a plugin before its options. Of two texts for the same option the later one counts.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import plugins
from unified_fm.config import options, python, values
from unified_fm.config.options import Option

_log = logging.getLogger(__name__)
# Keys that decide which other keys exist beside them.
_FIRST = ("name", "pipeline", "path", "init", "cache", "config")


def apply(config: Mapping[str, Any], changes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The config with some options set.

    Args:
        config: as a config file gives it, plain dicts; it is left as it is.
        changes: (dotted path, text). The text is read as a value of the option's type. "None" is
            None where the option can be that; elsewhere it takes the entry or option out, so that
            a plugin's default counts. A number in place of an objective's dict is its weight.

    Raises:
        ValueError, TypeError: an option that does not exist, with the nearest one; a text of
            another type; a plugin that does not exist.
    """
    changed, root = _copied(config), options.tree()
    parted = [(path.split("."), text) for path, text in changes]
    parted.sort(key=lambda change: (len(change[0]), change[0][-1] not in _FIRST))
    for path, text in parted:
        _apply(changed, root, path, text)
    return changed


def _apply(config: dict[str, Any], root: Option, path: Sequence[str], text: str) -> None:
    here, option, place = config, root, "config"
    for depth, key in enumerate(path):
        rest = path[depth + 1 :]
        if option.by and option.by[0] == key:  # whatever plugin is named there now
            known, found = {}, option.by[1]
        else:
            known, others = option.inside(here)
            found = known.get(key) or others or _new(option, key, rest, text)
        if found is None:
            raise options.unknown(option, place, key, known)
        place = f"{place}.{key}"
        if not rest:
            _put(here, key, option, found, text, place)
            return
        here[key] = _opened(_now(here, key, found), found, rest[0], place)
        here, option = here[key], found


def _new(option: Option, key: str, rest: Sequence[str], text: str) -> Option | None:
    """A new entry of a dict of names, or None if this is rather a slip of the pen."""
    if option.names is None or text == "None":
        return None
    begins = len(rest) == 1 and rest[0] in option.begins
    whole = not rest and isinstance(values.literal(text), Mapping)
    if begins or whole or (option.plugin and key in plugins.names(option.plugin)):
        return option.names(key)
    return None


def _opened(value: Any, option: Option, key: str, place: str) -> dict[str, Any]:
    """The dict at a place, to set `key` in it."""
    if option.run and isinstance(value, str):
        return _copied(python.read(value))
    if value is None and values.is_dict(option.kind):
        return {}
    if isinstance(value, int | float) and option.bare:
        return {option.bare: value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} has no key {key!r}: it is {value!r}")
    return dict(value)


def _put(here: dict, key: str, owner: Option, option: Option, text: str, place: str) -> None:
    before = _now(here, key, option)
    if text == "None" and not values.optional(option.kind):
        if not option.removable:
            raise ValueError(
                f"{place} must be {values.describe(option.kind)}, so 'None' cannot be set"
            )
        here.pop(key, None)
        return
    kind = option.kind
    if kind is Any and isinstance(before, bool | int | float | str):
        kind = (int | float if type(before) in (int, float) else type(before)) | None
    value = values.read(text, kind, place, before)
    if option.bare and isinstance(before, Mapping) and not isinstance(value, Mapping):
        value = {**before, option.bare: value}
    here[key] = value
    if option.plugin and not option.names:
        _drop_strangers(here, owner, place)


def _now(here: Mapping[str, Any], key: str, option: Option) -> Any:
    """What counts at a place before it is set: what stands there, or the default."""
    default = None if option.default is plugins.REQUIRED else option.default
    return here.get(key, default)


def _drop_strangers(here: dict[str, Any], owner: Option, place: str) -> None:
    """Takes out the options of the plugin before that this one does not take."""
    known, others = owner.inside(here)
    strangers = [key for key in here if key not in known and others is None]
    for key in strangers:
        del here[key]
    if strangers:
        _log.info("%s is new and does not take %s: left out", place, ", ".join(strangers))


def _copied(value: Any) -> Any:
    """The same dicts anew, so that none is shared."""
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return value
