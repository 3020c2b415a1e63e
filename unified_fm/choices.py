"""Names that somebody may get wrong: what was possible, and what may have been meant."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

_SHOWN = 10  # lines of a list in a message


def check(name: str, value: Any, choices: Iterable[str]) -> Any:
    """Returns the value of the option `name`, unless it is none of the choices.

    Raises:
        ValueError: with the value, the choices and the nearest of them.
    """
    choices = tuple(choices)
    if value in choices:
        return value
    raise ValueError(f"{name} is {value!r}; {_said(str(value), choices)}")


def possible(name: str, known: Iterable[str]) -> str:
    """Says what could have been meant: "did you mean 'x'? Possible: a, b, x."."""
    return _said(name, sorted(known))


def _said(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    hint = f"did you mean {near!r}? " if near else ""
    return f"{hint}Possible: {', '.join(known) or 'none'}."


def listed(title: str, lines: Sequence[str]) -> str:
    """Writes a title and the first ten lines, with the number of the others."""
    more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "\n  ".join([title, *lines[:_SHOWN]]) + more


def nearest(name: str, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """The most similar of the names, if one is similar at all.

    Args:
        name: what was found.
        known: what there is; of very many names only the first 2,000 are looked at.
        cutoff: from 0, where any name will do, to 1, where only the same does; at 0.5 `runs` is
            near `requirements`.
    """
    found = difflib.get_close_matches(name, list(known)[:2000], n=1, cutoff=cutoff)
    return found[0] if found else None
