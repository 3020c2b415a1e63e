"""Whether a plugin has all that its kind promises, asked once where it is opened."""

from typing import Any

_CALLED = ("__call__", "__len__", "__getitem__")


def check(found: Any, contract: type, what: str) -> None:
    """Refuses a plugin that lacks a part of its contract.

    Args:
        found: a class or an object of the user's.
        contract: the Protocol of its kind, whose defaults a class derived from it has.
        what: names the plugin in the message.

    Raises:
        TypeError: with what is missing, and the class to derive from.
    """
    known = set(dir(found))
    missing = [name for name in members(contract) if name not in known]
    if missing:
        where = f"{contract.__module__}.{contract.__name__}"
        raise TypeError(
            f"{what} lacks {', '.join(missing)}: derive it from {where}, which says what each"
            " is for and has a default of all but a few"
        )


def members(contract: type) -> list[str]:
    """The names that a Protocol asks for."""
    return [name for name in vars(contract) if not name.startswith("_") or name in _CALLED]
