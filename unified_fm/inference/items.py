"""What a caller gives: one item or several, and which of them is at fault.

One item in gives one result out, a list gives a list, in its order, and an empty one an empty one.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unified_fm import choices
from unified_fm.data import fields
from unified_fm.data.skips import Skip

ON_ERROR = ("raise", "skip")
IMAGES, TEXTS = "images", "texts"
_SHOWN = 60  # characters of an item in a message


class BadItem(ValueError):
    """An item that cannot be used.

    Attributes:
        what: the argument ("images").
        index: its place in the list; 0 of one alone.
        reason: why.
    """

    def __init__(self, what: str, index: int, item: Any, reason: str):
        super().__init__(f"{what}[{index}]{_named(item)}: {reason}")
        self.what, self.index, self.reason = what, index, reason


class Items(NamedTuple):
    """A caller's argument as a list.

    Attributes:
        what: the name of the argument.
        values: the items.
        single: whether it was one item and not a list.
    """

    what: str
    values: list[Any]
    single: bool

    def each(self, read: Callable[[Any], Any], on_error: str) -> list[Any]:
        """What `read` makes of every item; None for one that is skipped.

        Raises:
            BadItem: the first that cannot be used, and `on_error` is "raise".
        """
        return [self.one(read, index, on_error) for index in range(len(self.values))]

    def decoded(
        self, read: Callable[[Any], Any], indices: Sequence[int], on_error: str
    ) -> dict[int, Any]:
        """{index: what `read` makes of that item}, without those that are skipped; by threads,
        for decoders let others work. Raises as `each`."""
        with ThreadPoolExecutor(min(len(indices), os.cpu_count() or 1) or 1) as pool:
            made = pool.map(lambda index: self.one(read, index, on_error), indices)
            found = dict(zip(indices, made, strict=True))
        return {index: value for index, value in found.items() if value is not None}

    def one(self, read: Callable[[Any], Any], index: int, on_error: str) -> Any:
        """What `read` makes of one item; see `each`."""
        item = self.values[index]
        try:
            return read(item)
        except Skip as skip:
            if on_error == "skip":
                return None
            reason = f"{skip.reason}: {skip.detail}" if skip.detail else skip.reason
            raise BadItem(self.what, index, item, reason) from skip


def listed(given: Any, what: str) -> Items:
    """An argument as `Items`.

    A tuple is a list too. An array u8[N H W C] is N images.

    Raises:
        TypeError: neither an item nor a list, with what is possible.
    """
    if isinstance(given, np.ndarray) and given.ndim == 4:
        return Items(what, list(given), False)
    if isinstance(given, list | tuple):
        return Items(what, list(given), False)
    if isinstance(given, str | bytes | bytearray | os.PathLike | np.ndarray | Image.Image):
        return Items(what, [given], True)
    raise TypeError(
        f"{what}: {type(given).__name__} is neither an item nor a list of them; an image is a "
        "path, bytes, a uint8 array [H W 3] or a Pillow image, a text is a str"
    )


def kind_of(items: Items) -> str:
    """Whether these are IMAGES or TEXTS, of an argument that may be either.

    A str is an image if it ends like a file of one. Where only images can be meant nothing is
    asked here: any str is a path.

    Raises:
        ValueError: some are and some are not.
    """
    found = {IMAGES if _is_image(item) else TEXTS for item in items.values}
    if len(found) > 1:
        raise ValueError(
            f"{items.what} are images as well as texts; a str is an image where it ends in "
            f"{', '.join(fields.IMAGE_ENDINGS)}, and a pathlib.Path always is"
        )
    return found.pop() if found else TEXTS


def paired(first: Items, second: Items) -> list[tuple[int, int]]:
    """Which item of the one belongs to which of the other: in turn, or one to all of the other.

    Raises:
        ValueError: other numbers.
    """
    a, b = len(first.values), len(second.values)
    if a == b:
        return [(n, n) for n in range(a)]
    if a == 1 or b == 1:
        return [(n if a > 1 else 0, n if b > 1 else 0) for n in range(a * b)]
    raise ValueError(
        f"{a} {first.what} and {b} {second.what}: their numbers must be equal, or one of them 1"
    )


def check_on_error(on_error: str) -> str:
    """Refuses another word than "raise" and "skip"."""
    return choices.check("on_error", on_error, ON_ERROR)


def check_k(k: int) -> int:
    """Refuses fewer results of an item than one.

    Raises:
        ValueError: `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    return k


def results(
    found: Sequence[Any], items: Items | bool, on_error: str, shape: tuple[int, ...] = ()
) -> Any:
    """Numbers of each item as an array f32[N ...]; of one item alone without the axis.

    With on_error="skip" a list, with None for what was skipped.

    Args:
        found: an array of each item.
        items: the argument, or whether it was a single one.
        on_error: see `Items.each`.
        shape: of one result.
    """
    single = items.single if isinstance(items, Items) else items
    if single:
        return _plain(found[0])
    if on_error == "skip":
        return [_plain(value) for value in found]
    return np.stack(found) if len(found) else np.zeros((0, *shape), np.float32)


def _plain(value: Any) -> Any:
    return value if value is None or np.ndim(value) else float(value)


def _is_image(item: Any) -> bool:
    return not isinstance(item, str) or item.lower().endswith(fields.IMAGE_ENDINGS)


def _named(item: Any) -> str:
    """An item in a message, as far as it has a name."""
    if isinstance(item, str | pathlib.PurePath):
        text = str(item)
        return f" ({text[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''})"
    return ""
