"""How the groups' gradients get along, block by block: numbers for the log, not for training."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim import masks
from unified_fm.optim.merge.base import Groups, divide, total


def measure(
    grads: Mapping[str, Any],
    opt_state: Any = None,
    *,
    shared: str = ".*",
    scope: str = "layer",
) -> dict[str, jax.Array]:
    """Measures each block of shared parameters: a numbered layer, or what else has one first name.

    Pure and jittable; a step that calls it reads every gradient once more, so do it now and then.

    Args:
        grads: `{group: gradient tree}`, as the merge gets them.
        opt_state: a state of a chain; if it contains IGM, its mask is measured as well.
        shared: regex of the shared parameters.
        scope: "layer", "tensor" or "model".

    Returns:
        Scalars by name, for every block and every pair of groups a, b: `cosine/a/b/BLOCK`;
        `conflict/a/b/BLOCK`, the share of entries whose signs are opposite; `norm_ratio/a/b/BLOCK`,
        |a| / |b|; and for the mask `density/BLOCK`, the share of entries that the owner still has,
        and `churn/BLOCK`, the share that changed sides at the last refresh. A ratio to nothing
        is 0.
    """
    members = Groups(names=tuple(grads), shared=shared, merge="telemetry", least=1)
    trees = members.ordered(grads)
    found, index = members.blocks(trees[0], scope)
    grams = members.gram(trees, scope).dots  # f[N K K]; ratios need no unit
    norms = jnp.sqrt(jnp.diagonal(grams, axis1=1, axis2=2))  # f[N K]

    result = {}
    for a, b in itertools.combinations(range(len(trees)), 2):
        pair = f"{members.names[a]}/{members.names[b]}"
        conflicts = _conflicts(trees[a], trees[b], index, len(found))
        for n, block in enumerate(found):
            product = norms[n, a] * norms[n, b]
            result[f"cosine/{pair}/{block}"] = divide(grams[n, a, b], product)
            result[f"conflict/{pair}/{block}"] = conflicts[n]
            result[f"norm_ratio/{pair}/{block}"] = divide(norms[n, a], norms[n, b])
    if masks.find_all(opt_state):
        result |= _of_mask(masks.find(opt_state), found, index)
    return result


def _conflicts(first: Any, second: Any, index: Any, blocks: int) -> list[jax.Array]:
    """The share of entries with opposite signs, for each block."""
    opposite: list[list[jax.Array]] = [[] for _ in range(blocks)]
    sizes = [0] * blocks
    for n, a, b in zip(*map(jax.tree.leaves, (index, first, second)), strict=True):
        if n >= 0:
            # By signs: the product of two small numbers can vanish.
            opposite[n].append(jnp.sum(jnp.sign(a) * jnp.sign(b) < 0, dtype=jnp.float32))
            sizes[n] += a.size
    return [total(counts) / size for counts, size in zip(opposite, sizes, strict=True)]


def _of_mask(state: masks.State, found: list[str], index: Any) -> dict[str, jax.Array]:
    """Density and churn of the blocks that contain a masked tensor."""
    owned: dict[int, list[jax.Array]] = {}
    moved: dict[int, list[jax.Array]] = {}
    sizes: dict[int, int] = {}
    churn = iter(state.churn)
    in_order = jax.tree.structure(index).flatten_up_to(state.mask)  # MaskedNode: no mask
    for n, mask in zip(jax.tree.leaves(index), in_order, strict=True):
        if isinstance(mask, optax.MaskedNode):
            continue
        owned.setdefault(n, []).append(jnp.sum(mask, dtype=jnp.float32))
        moved.setdefault(n, []).append(next(churn))
        sizes[n] = sizes.get(n, 0) + mask.size
    result = {}
    for n, size in sizes.items():
        result[f"density/{found[n]}"] = total(owned[n]) / size
        result[f"churn/{found[n]}"] = total(moved[n]) / size
    return result
