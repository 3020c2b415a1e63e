"""Cutting a batch into micro-batches, and putting their losses together exactly.

A mean over the batch is not the mean of the micro-batches' means when they count different numbers
of tokens or boxes. So each loss brings its denominator, and a micro-batch's loss is weighted by its
share of the sum of denominators.
"""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

_WHOLE = ""  # the share that belongs to an output's own loss, beside those of its parts


def split(batches: Mapping[str, Any], count: int, packs: Mapping[str, int | None]) -> Any:
    """Cuts every batch into `count` micro-batches, stacked on a new axis 0.

    Micro-batch i takes the packs i, i + count, i + 2 count, ...: then the rows that a device holds
    stay on it. A row of an ordinary stream is its own pack; in a stream with `image_index`, rows
    reference images of their own pack, and the index is rewritten for the smaller batch.

    Args:
        batches: {stream: batch}, every leaf with rows on axis 0.
        count: number of micro-batches.
        packs: {stream: number of packs, or None for one per row}.

    Raises:
        ValueError: rows that cannot be cut, or fixed negatives, which index the whole batch.
    """
    return {name: _split(name, batch, count, packs.get(name)) for name, batch in batches.items()}


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


def _split(stream: str, batch: Mapping[str, Any], count: int, packs: int | None) -> Any:
    fixed = [key for key in ("negatives_image", "negatives_text") if key in batch]
    if fixed:
        raise ValueError(f"stream {stream!r}: {fixed[0]} indexes the whole batch: accumulate=1")
    if "image_index" in batch and packs is None:
        raise ValueError(
            f"stream {stream!r} has image_index, so accumulate={count} needs `packs` in its config"
        )

    def cut(x):
        groups = packs or len(x)
        if groups % count or len(x) % groups:
            raise ValueError(
                f"stream {stream!r}: {len(x)} rows in {groups} packs cannot be cut into "
                f"{count} micro-batches"
            )
        # Whole packs, dealt out like cards: pack i goes to micro-batch i % count. Neighbours lie on
        # one device, so each micro-batch has rows on every device and none has to be moved.
        x = x.reshape(groups // count, count, len(x) // groups, *x.shape[1:])
        return jnp.moveaxis(x, 1, 0).reshape(count, -1, *x.shape[3:])

    pieces = jax.tree.map(cut, dict(batch))
    if "image_index" in batch and packs is not None:
        index = pieces["image_index"]  # i32[count R/count], rows of the whole batch's images
        size = len(batch["image"]) // cast(int, packs)  # images in a pack
        # Its pack was the (pack // count)-th of those dealt to this micro-batch; its place in the
        # pack is as before.
        pieces["image_index"] = index // size // count * size + index % size
    return pieces
