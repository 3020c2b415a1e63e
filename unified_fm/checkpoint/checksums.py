"""Checksums of parameter trees, computed on the devices from the arrays themselves."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import choices
from unified_fm import rules as path_rules


def of(tree: Any) -> dict[str, int]:
    """One number per array, {path: u32}, that changes if any one bit of the array does.

    It is the sum of the array's 32-bit words, each times an odd weight that depends on its place: a
    word that changes by d changes the sum by d times an odd number, which is never 0 modulo 2^32.
    The same number results on any sharding.
    """
    names = path_rules.names(tree)
    return dict(
        zip(names, map(int, jax.device_get(_checksums(jax.tree.leaves(tree)))), strict=True)
    )


def sha256(leaves: Iterable[tuple[str, Any]]) -> str:
    """The hash by which parameters (name, array) are called wherever they lie; hexadecimal."""
    found = hashlib.sha256()
    for name, leaf in leaves:
        array = np.ascontiguousarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def of_json(value: Any) -> int:
    """CRC-32 of a JSON value."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def verify(place: Any, tree: Any, saved: Mapping[str, int] | int) -> None:
    """Refuses a tree of arrays, or a JSON value, whose checksum is not the one saved with it.

    Raises:
        ValueError: with the place and the names of the damaged arrays.
    """
    if isinstance(saved, int):
        if of_json(tree) != saved:
            raise ValueError(f"{place} is damaged: its checksum differs")
        return
    found = of(tree)
    names = sorted(set(found) | set(saved))
    wrong = [name for name in names if found.get(name) != saved.get(name)]
    if wrong:
        title = f"{place} is damaged; the checksums of {len(wrong)} array(s) differ:"
        raise ValueError(choices.listed(title, wrong))


@jax.jit
def _checksums(leaves):
    return [_checksum(jnp.asarray(leaf)) for leaf in leaves]


def _checksum(x):
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(4, x.dtype.itemsize)}"))
    words = words.astype(jnp.uint32)
    weight = jnp.ones(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        # Knuth's multiplicative constant, made different for each axis.
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weight += place * jnp.uint32((2654435761 * (2 * axis + 1)) % 2**32)
    return jnp.sum(words * (weight | 1), dtype=jnp.uint32)
