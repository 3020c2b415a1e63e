"""Gradient trees for the tests of the merges: vectors laid out over a small tree and back."""

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {  # the first 36 entries are shared, the last 4 are not
    "encoder/layer_00/kernel": (3, 4),
    "encoder/layer_00/bias": (4,),
    "encoder/layer_01/kernel": (4, 4),
    "encoder/norm/scale": (4,),
    "head/kernel": (2, 2),
}
SIZE, SHARED = 40, 36
RULE = "encoder/.*"


def tree(vector):
    """Lays 40 numbers out over the tree."""
    result, start = {}, 0
    for path, shape in SHAPES.items():
        *parents, last = path.split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        stop = start + int(np.prod(shape))
        node[last] = jnp.asarray(np.asarray(vector[start:stop], np.float32).reshape(shape))
        start = stop
    return result


def flat(params):
    """The 40 numbers of a tree, in the order of SHAPES, as float64."""
    parts = []
    for path in SHAPES:
        node = params
        for name in path.split("/"):
            node = node[name]
        parts.append(np.asarray(node, np.float64).reshape(-1))
    return np.concatenate(parts)


def gradients(count, seed=0, cosine=None):
    """`count` random gradients as rows, f64[count 40]; two of them with a given cosine if asked."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, SIZE)) * rng.uniform(0.5, 2.0, size=(count, 1))
    if cosine is not None:
        first, second = rows[0, :SHARED], rows[1, :SHARED]
        u = first / np.linalg.norm(first)
        v = second - (second @ u) * u
        v *= np.sqrt(1 - cosine**2) / np.linalg.norm(v)
        rows[1, :SHARED] = np.linalg.norm(second) * (cosine * u + v)
    return np.float32(rows).astype(np.float64)


def names(count):
    return ("image", "text", "pairs", "regions", "video")[:count]


def grads_of(rows):
    """{group: tree} of the rows."""
    return {name: tree(row) for name, row in zip(names(len(rows)), rows, strict=True)}


def run(transformation, rows, state=None, **extra):
    """One update; returns the merged shared vector f64[36] and the state."""
    params = tree(np.zeros(SIZE))
    state = transformation.init(params) if state is None else state
    merged, state = jax.jit(transformation.update)(grads_of(rows), state, params, **extra)
    merged = flat(merged)
    # Whatever the merge, what is not shared gets the sum.
    np.testing.assert_allclose(merged[SHARED:], rows[:, SHARED:].sum(0), rtol=1e-5, atol=1e-6)
    return merged[:SHARED], state


def losses_of(values):
    return {
        name: jnp.float32(value) for name, value in zip(names(len(values)), values, strict=True)
    }
