"""Features of images and of texts, in batches."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.inference.items import IMAGES, Items
from unified_fm.inference.parts import Parts
from unified_fm.inference.preprocessing import TEXT_ARRAYS
from unified_fm.inference.programs import by_length, stacked

_OF = {
    ("image", True): queries.image_feature,
    ("image", False): queries.image_summary,
    ("text", True): queries.text_feature,
    ("text", False): queries.text_summary,
}


def of_images(
    parts: Parts, items: Items, on_error: str, *, project: bool = True
) -> list[np.ndarray | None]:
    """A feature f32[E] (f32[D] where nothing is projected) of each image; None: it was skipped.

    Raises:
        NotTrained: there is no projection. BadItem: see `Items.each`.
    """
    parts.abilities.need("image_projection" if project else "encode_image")
    found: list[Any] = [None] * len(items.values)
    for part in parts.programs.chunks(len(items.values)):
        rows = items.decoded(parts.preprocessing.resized, range(part.start, part.stop), on_error)
        if rows:
            batch = {"image": np.stack([*rows.values()])}
            features = parts.programs.rows(_OF["image", project], batch)["feature"]
            for number, feature in zip(rows, features, strict=True):
                found[number] = feature
    return found


def of_texts(
    parts: Parts, items: Items, on_error: str, *, project: bool = True
) -> list[np.ndarray | None]:
    """A feature of each text, as `of_images`.

    What is projected is read as a text about an image, else as a text alone.
    """
    parts.abilities.need("text_projection" if project else "encode_text")
    rows = tokens(parts, items, on_error, about_image=project)
    most = parts.preprocessing.reader(project).max_len
    return asked(parts, _OF["text", project], rows, most, operator.itemgetter("feature"))


def of(parts: Parts, items: Items, kind: str, on_error: str) -> list[np.ndarray | None]:
    """Projected features of images or of texts."""
    return (of_images if kind == IMAGES else of_texts)(parts, items, on_error)


def width(parts: Parts, kind: str, project: bool) -> int:
    """Length of a feature of an "image" or a "text"."""
    if project:
        return parts.params[f"{kind}_proj"]["kernel"].shape[-1]
    return parts.widths[f"{kind}s"]


def tokens(parts: Parts, items: Items, on_error: str, *, about_image: bool) -> list[Any]:
    """The arrays of each text; None: it was skipped."""
    read = functools.partial(parts.preprocessing.tokens, about_image=about_image)
    return items.each(read, on_error)


def asked(
    parts: Parts,
    fn: Callable,
    rows: list[Any],
    most: int,
    digest: Callable[[dict[str, np.ndarray]], Any],
) -> list[Any]:
    """What `digest` makes of the dict that `fn(net, batch)` gives of each text; None of None.

    Texts of about one length are asked together, of at most `most` tokens.
    """
    found: list[Any] = [None] * len(rows)
    for length, members in by_length(rows, most).items():
        for part in parts.programs.chunks(len(members)):
            some = members[part]
            batch = stacked([rows[n] for n in some], length, TEXT_ARRAYS)
            answers = parts.programs.rows(fn, batch)
            for row, number in enumerate(some):
                found[number] = digest({name: array[row] for name, array in answers.items()})
    return found


def unit(feature: np.ndarray) -> np.ndarray:
    """A feature of length 1."""
    return feature / max(float(np.linalg.norm(feature)), 1e-12)
