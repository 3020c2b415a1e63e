"""Heads of tasks: a caller's item becomes an example of the task, its pipeline makes the arrays."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.data.pipelines import base as pipelines
from unified_fm.data.skips import Skip
from unified_fm.inference import zero_shot
from unified_fm.inference.items import Items
from unified_fm.inference.parts import Head, Parts


def predictions(
    parts: Parts,
    head: Head,
    items: Items,
    on_error: str,
    *,
    change: Callable[[Any], Any] | None = None,
    key: Hashable = None,
) -> list[dict[str, np.ndarray] | None]:
    """What the head says of each item; None for one that is skipped.

    Args:
        parts, head: whom to ask.
        items, on_error: see `example` and `Items.each`.
        change, key: see `Programs.predict`.

    Raises:
        BadItem: an item that cannot be used.
    """
    found: list[Any] = [None] * len(items.values)
    programs = parts.programs
    for part in programs.chunks(len(items.values)):
        span = range(part.start, part.stop)
        rows = items.decoded(functools.partial(arrays_of, head), span, on_error)
        if not rows:
            continue
        names = next(iter(rows.values()))
        batch = {name: np.stack([row[name] for row in rows.values()]) for name in names}
        if head.stream:
            answers = programs.predict(head.stream, head.name, batch, change, key)
        else:
            answers = programs.rows(queries.image_classes, batch)
        for place, number in enumerate(rows):
            found[number] = {name: array[place] for name, array in answers.items()}
    return found


def arrays_of(head: Head, item: Any) -> dict[str, np.ndarray]:
    """The arrays that the head reads of an item.

    Raises:
        Skip: the item cannot be used.
    """
    pipeline = head.pipeline
    given = {"label": 0, **example(item, head)}  # only training needs a label: any will do
    arrays = pipeline(given, np.random.default_rng(0))
    return {name: array for name, array in arrays.items() if name not in ("parts", "label")}


def example(item: Any, head: Head) -> dict[str, Any]:
    """An item as an example of the task, by what it is made of.

    | item | fields of the example |
    | --- | --- |
    | a dict | as it is: those that the task's files have |
    | an image | `image` |
    | a str | `text`, `sentences`; or `image`, its path, where the pipeline reads no texts |
    | (image, str) | `image`, and `text` and `question` |
    | (str, str) | `text` and the pipeline's field for the second text, or `sentences` |
    | (image, image, str) or ((image, image), str) | `images`, `text` |

    Raises:
        Skip: it is none of these.
    """
    if isinstance(item, Mapping):
        return {str(key): value for key, value in item.items()}
    if not isinstance(item, tuple | list):
        text = isinstance(item, str) and "text" in head.gives
        return {"text": item, "sentences": [item]} if text else {"image": item}
    if len(item) == 2 and isinstance(item[0], tuple | list):
        item = (*item[0], item[1])
    if len(item) == 3 and isinstance(item[2], str):
        return {"images": list(item[:2]), "text": item[2]}
    if len(item) == 2 and isinstance(item[1], str):
        first, second = item
        if "image" in head.gives:
            return {"image": first, "text": second, "question": second}
        fields = pipelines.options_of(type(head.pipeline))
        field = head.pipeline.second if "second" in fields else ""
        named = {field: second} if field else {}
        return {"text": first, "sentences": [first, second], **named}
    raise Skip("no item of this task", f"{type(item).__name__} of {len(item)}")


def classes(head: Head, logits: np.ndarray) -> list[tuple[str, float]]:
    """(class, probability), the most probable first; of a head with one number, that number."""
    if len(logits) == 1:
        return [(head.named(0) if head.names else "value", float(logits[0]))]
    return zero_shot.shares([head.named(n) for n in range(len(logits))], logits)
