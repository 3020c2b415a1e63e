"""Cross-entropy over a vocabulary, without all of its logits at once.

Logits of 50,265 words for every masked word are the largest array of a pre-training step (1 GB for
256 texts of 20). They are made in chunks of the vocabulary, each of which is made again for the
gradient; and where the mesh splits heads, it splits the vocabulary, too.
"""

import jax
import jax.numpy as jnp

from unified_fm import placement

CHUNK = 2**28  # bytes of logits that a part of the mesh makes at once
_LANES = 128  # an odd vocabulary (50,265) is padded to a multiple of this for every part


def cross_entropy(
    x: jax.Array, table: jax.Array, bias: jax.Array, ids: jax.Array, *, chunk: int = CHUNK
) -> tuple[jax.Array, jax.Array]:
    """-log softmax(x table^T + bias) at the true words, and whether none scores above them.

    Equal scores count as right; argmax would take the first of them.

    Args:
        x: f[... D].
        table: f[V D].
        bias: f32[V].
        ids: i32[...], true words.
        chunk: bytes of logits that are made at once.

    Returns:
        (f32[...], bool[...]).
    """
    here = placement.current()
    parts = here.splits
    rows = max(ids.size // here.shards, 1)
    chunks = max(-(-rows * len(table) * 4 // (chunk * parts)), 1)
    padded = chunks * parts
    if padded > 1:
        padded *= _LANES
    missing = -len(table) % padded
    # A word that does not exist has no chance.
    none = jnp.finfo(jnp.float32).min
    bias = jnp.pad(bias, (0, missing), constant_values=none)
    table = jnp.pad(table.astype(x.dtype), ((0, missing), (0, 0)))
    size = len(table) // chunks

    def step(carry, piece):
        highest, total, own = carry
        words, offsets, first = piece
        # In the other order the compiler for GPUs all-reduces every chunk's gradient (466 MB of
        # X-FM's step at fsdp=8); in this one that for CPUs gathers it again.
        words, offsets = here.summed(here.split(words, 0), 1), here.split(offsets, 0)
        logits = jnp.einsum("...d,vd->...v", x, words, preferred_element_type=jnp.float32)
        logits = logits + offsets  # f32[... size]
        before, highest = highest, jnp.maximum(highest, jax.lax.stop_gradient(logits.max(-1)))
        total = total * jnp.exp(before - highest) + jnp.exp(logits - highest[..., None]).sum(-1)
        # A sum over what is nearly all zero, not a look-up: that would gather what is split.
        true = jnp.arange(size) == (ids - first)[..., None]
        own = own + jnp.where(true, logits, 0.0).sum(-1)
        return (highest, total, own), None

    zero = jnp.zeros(ids.shape, jnp.float32)
    start = jnp.full(ids.shape, none), zero, zero
    pieces = table.reshape(chunks, size, -1), bias.reshape(chunks, size), size * jnp.arange(chunks)
    if chunks == 1:
        (highest, total, own), _ = step(start, jax.tree.map(lambda piece: piece[0], pieces))
    else:
        again = jax.checkpoint(step, prevent_cse=False)
        (highest, total, own), _ = jax.lax.scan(again, start, pieces)
    return jnp.log(total) + highest - own, own >= highest
