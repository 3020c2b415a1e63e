"""What evaluators do with a model: a function of it over many rows, in batches of one shape."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Apply(Protocol):
    """What a run lets its evaluators do with its model; it comes from outside."""

    def __call__(self, fn: Any, params: Any, batch: Any, rngs: Any = None) -> Any:
        """Runs `fn(net, batch)` inside a jitted `nn.apply` with these parameters.

        Args:
            fn: a function of a module or a frozen dataclass, never a new closure, so that it is
                compiled once for each shape of `batch`.
            params: of the model.
            batch: any tree of arrays.
            rngs: random numbers, {name: key}.
        """
        ...

    def outputs(self, stream: str, params: Any, batch: Any, rng: Any) -> Mapping[str, Any]:
        """What the objectives of a stream of the run say of a batch, {objective: its `Output`}.

        As in a step, with the stream's teachers and the averaged parameters, but without dropout.
        The batch is like the stream's, but of any size; `rng` is for the objectives' own draws.
        """
        ...

    def predictions(
        self, stream: str, objective: str, params: Any, batch: Any
    ) -> Mapping[str, Any]:
        """What an objective of a stream predicts of a batch, {name: [B ...]}; see its `predict`."""
        ...


def stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks the arrays of many examples of the same keys and shapes; without any, no keys."""
    return {key: np.stack([row[key] for row in rows]) for key in (rows[0] if rows else ())}


def padded(rows: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Repeats the first row until there are `size`, so that every call has the same shape."""

    def pad(array):
        missing = size - len(array)
        return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array

    return {key: pad(array) for key, array in rows.items()}


def in_batches(
    apply: Apply,
    fn: Any,
    params: Any,
    rows: Mapping[str, np.ndarray],
    size: int,
    *,
    images: np.ndarray | None = None,
    on_device: bool = False,
) -> Any:
    """Runs `fn(net, batch)` over all rows in batches of `size` and joins what it returns.

    Args:
        rows: arrays with the examples leading; the last batch is padded and its padding dropped.
        images: u8[I H W 3]; the batch then has `image`, the ones that `rows["image_row"]` names.
            So an image that several rows share is kept once.
        on_device: keep the results where they were computed instead of fetching them.

    Returns:
        The tree that `fn` returns, each leaf with one row per example.
    """
    total = len(next(iter(rows.values())))
    size = min(size, total)
    parts = []
    for start in range(0, total, size):
        count = min(size, total - start)
        batch = padded({key: array[start : start + size] for key, array in rows.items()}, size)
        if images is not None:
            batch["image"] = images[batch["image_row"]]
        result = apply(fn, params, batch)
        parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], result))
    if on_device:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves]), *parts)
