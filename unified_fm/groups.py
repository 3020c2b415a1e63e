"""Groups of rows: equal, contiguous parts of a batch, inside which rows may refer to each other.

How many there are is a number of the config, so what a row refers to is the same on every mesh. A
mesh that cuts a batch between groups lets every device find all that its rows refer to on itself.
"""

import jax


def cut(x: jax.Array, groups: int) -> jax.Array:
    """Rows of x f[B ...] by group, f[G B/G ...]."""
    return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])


def take(x: jax.Array, index: jax.Array, groups: int = 1) -> jax.Array:
    """Rows f[n ...] of x f[B ...], each from the group of who asks.

    Args:
        x: B rows in `groups` groups.
        index: i32[n], places inside the group; the n who ask lie in groups in the same way.
        groups: their number.
    """
    if groups == 1:
        return x[index]
    found = jax.vmap(lambda rows, places: rows[places])(cut(x, groups), cut(index, groups))
    return found.reshape(len(index), *x.shape[1:])
