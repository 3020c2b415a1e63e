"""Values of a `config.json`, each with its JSON type and its range checked.

The file may come from anywhere, so nothing in it is trusted to be what its name says. A name that
is not there raises `KeyError`, unless a default is given.
"""

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from unified_fm.convert.errors import ConversionError

_NEEDED: Any = object()
_MOST = 2**31 - 1
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,1000}")  # neither controls nor half characters


def integer(config: Mapping, name: str, least: int = 1, default: Any = _NEEDED) -> Any:
    """An integer from `least` to 2**31 - 1.

    Raises:
        KeyError: there is none, and no default.
        ConversionError: it is something else.
    """
    value = _get(config, name, default)
    fits = value is default or (type(value) is int and least <= value <= _MOST)
    return value if fits else refuse(name, value, f"an integer from {least} to {_MOST}")


def number(config: Mapping, name: str, most: float = 1.0, default: Any = _NEEDED) -> Any:
    """A number from 0 to `most`. Raises as `integer`."""
    value = _get(config, name, default)
    fits = value is default or (type(value) in (int, float) and 0 <= value <= most)
    return value if fits else refuse(name, value, f"a number from 0 to {most:g}")


def flag(config: Mapping, name: str, default: Any = _NEEDED) -> Any:
    """true or false. Raises as `integer`."""
    value = _get(config, name, default)
    fits = value is default or type(value) is bool
    return value if fits else refuse(name, value, "true or false")


def text(config: Mapping, name: str, default: Any = _NEEDED) -> Any:
    """A text of at most 1,000 characters on one line. Raises as `integer`."""
    value = _get(config, name, default)
    fits = value is default or _is_text(value)
    return value if fits else refuse(name, value, "a text of one line")


def section(config: Mapping, name: str) -> Mapping:
    """An object. Raises as `integer`."""
    value = _get(config, name, _NEEDED)
    return value if isinstance(value, Mapping) else refuse(name, value, "an object")


def side(config: Mapping, name: str) -> int:
    """The side of a square in pixels, written as one integer or as two equal ones.

    Raises:
        KeyError, ConversionError: as `integer`; also for a rectangle.
    """
    value = _get(config, name, _NEEDED)
    if isinstance(value, list | tuple):
        if [type(n) for n in value] != [int, int] or value[0] != value[1]:
            refuse(name, value, "one number, or two equal ones: images and patches are squares")
        value = value[0]
    return integer({name: value}, name)


def texts(config: Mapping, name: str) -> list[str]:
    """A list of texts; empty where there is none (or null).

    Raises:
        ConversionError: it is something else.
    """
    value = config.get(name)
    fits = value is None or (isinstance(value, list | tuple) and all(map(_is_text, value)))
    return list(value or ()) if fits else refuse(name, value, "a list of texts")


def labels(config: Mapping, name: str) -> list[str] | None:
    """Names of classes: an object `{"0": NAME, "1": NAME, ...}` in any order; None without one.

    Raises:
        ConversionError: it is something else, or numbers are missing.
    """
    value = config.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(map(_is_text, value.values())):
        refuse(name, value, "an object of numbers and names")
    found = {str(key): label for key, label in value.items()}
    numbers = [str(n) for n in range(len(found))]
    if found.keys() != set(numbers):
        refuse(name, value, "names for the numbers from 0 on, none left out")
    return [found[n] for n in numbers]


def refuse(name: str, value: Any, expected: str) -> Any:
    """Raises the error for a wrong value, however large or deep it is."""
    raise ConversionError(f"config.json: {name} is {reprlib.repr(value)}; expected {expected}")


def _get(config: Mapping, name: str, default: Any) -> Any:
    return config[name] if default is _NEEDED else config.get(name, default)


def _is_text(value: Any) -> bool:
    return type(value) is str and _TEXT.fullmatch(value) is not None
