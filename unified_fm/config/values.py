"""Whether a value is of an option's type, and what a text of the command line is as such a value.

Types are those of annotations: `int`, `float | None`, `tuple[float, float]`, `Sequence[str]`,
`Mapping[str, float]`. One that is not understood here takes any value.
"""

import ast
import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

_WORDS = {"true": True, "false": False}
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_LISTS = (list, tuple, collections.abc.Sequence)


class _Other(Exception):
    """The value is of another type."""


def read(text: str, kind: Any, place: str, before: Any = None) -> Any:
    """The value that a text gives an option.

    Args:
        text: of the command line. For an option that may be a string it is that string, unless it
            is a value of another type that the option may have ("None", a list, a number).
        kind: the annotation.
        place: dotted, for the message.
        before: the value there now, if there is one.

    Raises:
        ValueError: the text is of another type.
    """
    for option in alternatives(kind):
        try:
            return text if option is str else _as(literal(text), option)
        except _Other:
            continue
    now = f"{place} is {describe(kind)}" if before is None else f"{place} is {before!r}"
    shown = "" if before is None else f" ({describe(kind)})"
    raise ValueError(f"{now}{shown}, so {text!r} cannot be set")


def check(value: Any, kind: Any, place: str) -> None:
    """Refuses a value of another type.

    Raises:
        TypeError: with the type wanted.
    """
    for option in alternatives(kind):
        try:
            _as(value, option)
            return
        except _Other:
            continue
    raise TypeError(f"{place} must be {describe(kind)}, found {value!r}")


def optional(kind: Any) -> bool:
    """Whether None is a value of this type."""
    return any(option in (None, type(None), Any) for option in alternatives(kind))


def is_dict(kind: Any) -> bool:
    """Whether a dict can be a value of this type."""
    found = alternatives(kind)
    return any(_is_record(o) or (typing.get_origin(o) or o) in (*_DICTS, Any) for o in found)


def item(kind: Any) -> Any:
    """The type of the values in a dict of this type: float of `Mapping[str, float] | None`."""
    for option in alternatives(kind):
        inner = typing.get_args(option)
        if typing.get_origin(option) in _DICTS and len(inner) == 2:
            return inner[1]
    return Any


def literal(text: str) -> Any:
    """The Python value that a text writes, with true and false in small letters too; or the text.

    A number, a string in quotes, a list, tuple or dict of them; nothing is run.
    """
    if text in _WORDS:
        return _WORDS[text]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def describe(kind: Any) -> str:
    """How a message names a type: "float or None"."""
    names = {"NoneType": "None", "Mapping": "dict", "Sequence": "list", "Any": "anything"}
    found = []
    for option in alternatives(kind):
        name = getattr(typing.get_origin(option) or option, "__name__", str(option))
        name = "dict" if _is_record(option) else name
        found.append(names.get(name, name))
    found.sort(key="None".__eq__)
    return " or ".join(found)


def alternatives(kind: Any) -> list[Any]:
    """The types that a value may be of, one by one; strings last, since every text is one."""
    if isinstance(kind, str) or kind is inspect.Parameter.empty:
        kind = Any  # an annotation that could not be evaluated, or none
    if typing.get_origin(kind) is typing.Annotated:
        return alternatives(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        found = [each for part in typing.get_args(kind) for each in alternatives(part)]
        return sorted(found, key=lambda option: option is str)
    return [kind]


def _as(value: Any, kind: Any) -> Any:
    """The value, as `kind`; raises `_Other` if it is of another type."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in (None, type(None)):
        return _if(value is None, value)
    if origin is typing.Literal:
        return _if(value in inner, value)
    if kind is bool:
        return _if(isinstance(value, bool), value)
    if kind in (int, float):
        accepted = (int, float) if kind is float else int
        _if(isinstance(value, accepted) and not isinstance(value, bool), value)
        return kind(value)
    if kind is str:
        return _if(isinstance(value, str), value)
    if _is_record(kind):
        return _if(isinstance(value, kind | Mapping), value)
    if origin in _DICTS:
        _if(isinstance(value, Mapping), value)
        return {k: _each(v, inner[1]) if len(inner) > 1 else v for k, v in value.items()}
    if origin in _LISTS:
        _if(isinstance(value, Sequence) and not isinstance(value, str | bytes), value)
        return _list(value, origin, inner)
    return value


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _list(value: Sequence[Any], origin: Any, inner: tuple[Any, ...]) -> Any:
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        _if(len(value) == len(inner), value)
        return tuple(_each(v, kind) for v, kind in zip(value, inner, strict=True))
    made = [_each(v, inner[0]) if inner else v for v in value]
    return tuple(made) if origin is tuple or isinstance(value, tuple) else made


def _each(value: Any, kind: Any) -> Any:
    for option in alternatives(kind):
        try:
            return _as(value, option)
        except _Other:
            continue
    raise _Other


def _if(right: bool, value: Any) -> Any:
    if not right:
        raise _Other
    return value
