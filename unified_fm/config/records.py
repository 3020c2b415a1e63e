"""Typed records of settings: a frozen dataclass whose fields say what they are and may be.

    @record
    class Log(Record):
        every: int = setting(50, "steps between two lines of the log", Range(1))

What stands beside a default is what `--help` prints, and the limits are checked whenever such a
record is made. `Record.of` makes one of a plain mapping, as a config file gives it; its errors name
the place ("config.log.every") and the nearest key. `plain` is the way back, to JSON.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from unified_fm import choices
from unified_fm.config import values

record = dataclasses.dataclass(frozen=True, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be: from `low` to `high`, the ends themselves or not."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is inside; one that is not finite never is."""
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return f"in {'[('[self.open_low]}{self.low:g}, {self.high:g}{'])'[self.open_high]}"


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a setting beside its type and default.

    Attributes:
        text: one line for people.
        limits: of a number.
        choices: the values that exist; none: any.
    """

    text: str
    limits: Range | None = None
    choices: Sequence[str] = ()


def setting(
    default: Any, text: str, limits: Range | None = None, choices: Sequence[str] = ()
) -> Any:
    """A field of a record: its default, one line about it, and what it may be.

    A default that can be changed, such as a dict, is made anew for each record.
    """
    about = {"about": About(text, limits, choices)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=about)
    return dataclasses.field(default=default, metadata=about)


def required(text: str, limits: Range | None = None) -> Any:
    """A field of a record that has no default."""
    return dataclasses.field(metadata={"about": About(text, limits)})


def section(kind: "type[Record]") -> Any:
    """A field that is itself a record; by default that of all its defaults."""
    return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(frozen=True)
class Record:
    """The base of all records; see the head of this module.

    Attributes:
        sparse: of an entry that says little of what could be said: only that is written back.
        rest: the field that takes the keys which are no other field's; None: there are none.
    """

    sparse: ClassVar[bool] = False
    rest: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Refuses values of another type, out of range, or that are no choice.

        What a record adds to this raises errors that begin with the name of a field, or with a
        colon if they are about the whole.

        Raises:
            TypeError, ValueError: see above.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values.check(value, kinds(type(self))[field.name], field.name)
            if value is not None and (about := field.metadata.get("about")):
                _check(field.name, value, about)

    @classmethod
    def of(cls, given: Any, place: str = "config") -> Self:
        """Reads a plain mapping; what it leaves out has its default.

        Args:
            given: as a config file or JSON has it, or such a record already.
            place: what messages call it.

        Raises:
            ValueError, TypeError: a key that does not exist, with the nearest one; one that is
                lacking; a value that cannot be.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise TypeError(f"{place} is a dict, found {given!r}")
        fields = {field.name: field for field in dataclasses.fields(cls) if field.name != cls.rest}
        found: dict[str, Any] = {}
        others = {key: value for key, value in given.items() if key not in fields}
        if cls.rest:
            found[cls.rest] = others
        elif others:
            key = next(iter(others))
            raise ValueError(f"{place} has no key {key!r}; {choices.possible(key, fields)}")
        for name, field in fields.items():
            if name in given:
                found[name] = _read(given[name], kinds(cls)[name], f"{place}.{name}")
            elif field.default is field.default_factory is dataclasses.MISSING:
                raise ValueError(f"{place} has no {name!r}; found {', '.join(map(str, given))}")
        try:
            made = cls(**found)
        except (ValueError, TypeError) as error:
            dot = "" if str(error).startswith(":") else "."
            raise type(error)(f"{place}{dot}{error}") from error
        object.__setattr__(made, "_said", tuple(given))
        return made

    def plain(self) -> dict[str, Any]:
        """The settings as dicts, lists and numbers, from which `of` makes this record again."""
        said = {name: _plain(getattr(self, name)) for name in self._names()}
        if self.rest is not None:
            said |= _plain(getattr(self, self.rest))
        order = [key for key in self.__dict__.get("_said", ()) if self.sparse and key in said]
        return {key: said[key] for key in dict.fromkeys([*order, *said])}

    def replace(self, **changes: Any) -> Self:
        """The same with some fields changed, which are checked as at first."""
        made = dataclasses.replace(self, **changes)
        object.__setattr__(made, "_said", (*self._names(), *changes))
        return made

    def _names(self) -> list[str]:
        """The fields to write down."""
        names = [field.name for field in dataclasses.fields(self) if field.name != self.rest]
        if not self.sparse:
            return names
        said = self.__dict__.get("_said")
        if said is None:  # made in Python: what is not said has its default
            said = [n for n, default in defaults(type(self)).items() if getattr(self, n) != default]
        return [name for name in names if name in said]


@functools.cache
def kinds(of: type[Record]) -> Mapping[str, Any]:
    """{field: its type, an annotation} of a record."""
    return typing.get_type_hints(of)


def defaults(of: type[Record]) -> dict[str, Any]:
    """{field: default} of a record; `dataclasses.MISSING` where there is none."""
    return {
        field.name: field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(of)
    }


def record_in(kind: Any) -> type[Record] | None:
    """The record that a value of this type may be: Log of `Log`, `str | Log | None`."""
    for option in values.alternatives(kind):
        if isinstance(option, type) and issubclass(option, Record):
            return option
    return None


def _read(value: Any, kind: Any, place: str) -> Any:
    """The value, with records in place of the mappings that are some."""
    if found := record_in(kind):
        only = values.alternatives(kind) == [found]
        return found.of(value, place) if only or isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and (found := record_in(values.item(kind))):
        return {key: _read(inner, found, f"{place}.{key}") for key, inner in value.items()}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


def _check(name: str, value: Any, about: About) -> None:
    if about.choices and value not in about.choices:
        either = " or ".join(map(repr, about.choices))
        raise ValueError(f"{name} is {either}, found {value!r}")
    if about.limits and not isinstance(value, str) and not about.limits.holds(value):
        whole = isinstance(value, int) and about.limits.high == math.inf
        noun = "an integer" if whole else "a number"
        raise ValueError(f"{name} must be {noun} {about.limits}, found {value!r}")
