"""Cutting a batch into micro-batches, and putting their losses together exactly.

A mean over the batch is not the mean of the micro-batches' means when they count different numbers
of tokens or boxes. So each loss brings its denominator, and a micro-batch's loss is weighted by its
share of the sum of denominators.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_INDICES = ("image_index", "answer_of")  # by which rows refer to others of their group
_WHOLE = ""  # the share that belongs to an output's own loss, beside those of its parts


def split(batches: Mapping[str, Any], count: int, groups: Mapping[str, int | None]) -> Any:
    """Cuts every batch into `count` micro-batches, stacked on a new axis 0.

    Micro-batch i takes the groups i, i + count, i + 2 count, ...: then the rows that a device holds
    stay on it, and what rows refer to stays in their group. Rows of a stream with one group go
    by themselves, unless they refer to images by `image_index`.

    Args:
        batches: {stream: batch}, every leaf with rows on axis 0.
        count: number of micro-batches.
        groups: {stream: number of groups of its rows, or None}.

    Raises:
        ValueError: rows that cannot be cut, or fixed negatives, which index the whole batch.
    """
    return {name: _split(name, batch, count, groups.get(name)) for name, batch in batches.items()}


def groups_of(groups: int, count: int) -> int:
    """Groups of rows in each of `count` micro-batches: whole ones, or one of all its rows."""
    return 1 if groups % count else groups // count


def denominators(output: Any) -> dict[str, jax.Array]:
    """The number that each term of an output was divided by: {"": f32[], part: f32[], ...}."""
    found = {name: denominator for name, (_, denominator) in output.parts.items()}
    found[_WHOLE] = output.denominator
    return {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}


def combine(output: Any, share: Mapping[str, jax.Array]) -> jax.Array:
    """This micro-batch's contribution to the loss of the whole batch, f32[].

    Args:
        output: the `Output` of an objective.
        share: {term: part of the whole batch's denominator}; empty for a batch that is not cut.
    """
    return output.loss * share[_WHOLE] if share else output.loss


def log(
    name: str, output: Any, loss: jax.Array, share: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The values to log for one output, to be summed over micro-batches.

    Returns:
        {name: loss, "name/part": loss of the part, "name/metric": value}. Metrics are means
        weighted with the loss's denominator.
    """
    values = {name: loss}
    for part, (part_loss, _) in output.parts.items():
        values[f"{name}/{part}"] = part_loss * share.get(part, 1.0)
    for metric, value in output.metrics.items():
        values[f"{name}/{metric}"] = value * share.get(_WHOLE, 1.0)
    return {key: jnp.asarray(value, jnp.float32) for key, value in values.items()}


def _split(stream: str, batch: Mapping[str, Any], count: int, groups: int | None) -> Any:
    fixed = [key for key in ("negatives_image", "negatives_text") if key in batch]
    if fixed:
        raise ValueError(f"stream {stream!r}: {fixed[0]} indexes the whole batch: accumulate=1")
    refers = any(name in batch for name in _INDICES)
    if (refers or (groups or 1) > 1) and (groups or 1) % count:
        raise ValueError(
            f"stream {stream!r}: its rows refer to others of their group, so accumulate={count} "
            f"must divide its groups, which are {groups or 1}"
        )

    def cut(x):
        parts = groups if groups and groups % count == 0 else len(x)
        if parts % count or len(x) % parts:
            raise ValueError(
                f"stream {stream!r}: {len(x)} rows in {parts} groups cannot be cut into "
                f"{count} micro-batches"
            )
        # Whole groups, dealt out like cards: group i goes to micro-batch i % count. Neighbours lie
        # on one device, so each micro-batch has rows on every device and none has to be moved.
        x = x.reshape(parts // count, count, len(x) // parts, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(count, -1, *x.shape[3:])

    return jax.tree.map(cut, dict(batch))
