"""Which rows go through an encoder together: of one shape, with the same need of a gradient."""

import dataclasses
import zlib
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from unified_fm import placement
from unified_fm.models.base import Ask, Batch
from unified_fm.models.rows import EMBEDDING, Rows
from unified_fm.models.views import passes

Found = dict[tuple[str, str], jax.Array]  # {(stream, view): f[B ...]}
Readers = Mapping[str, tuple[Callable, Callable]]  # {"text", "image": (embed, encode)}
TEXTS = ("text", "text_masked")
IMAGES = ("image", "image_masked")


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """Rows that go through an encoder together.

    Attributes:
        members: (stream, view) of each of the batches that are joined.
        rows: theirs.
    """

    members: list[tuple[str, str]]
    rows: Rows

    def join(self, part: Callable[[str, str], jax.Array]) -> jax.Array:
        """What `part(stream, view)` gives for each member, joined."""
        return self.rows.join(part(*member) for member in self.members)

    def cut(self, x: jax.Array) -> Found:
        """{(stream, view): its rows} of the joined rows."""
        return dict(zip(self.members, self.rows.cut(x), strict=True))


def plan(
    batches: Mapping[str, Batch],
    asks: Mapping[str, Ask],
    views: Collection[str],
    *,
    alike: Callable[[Batch, str], Hashable],
    joint: bool,
) -> list[Pass]:
    """The passes that give those of `views` that are asked for.

    Args:
        batches, asks: by stream.
        views: names that take a pass of one encoder.
        alike: what rows must have in common to be joined, of (batch, view).
        joint: join what can be joined; else every view of a stream has a pass of its own.
    """
    members: dict[Any, list[tuple[str, str]]] = {}
    for stream, ask in asks.items():
        for view, flows in passes(ask.reads).items():
            if view in views:
                alone = None if joint else (stream, view)
                kind = (flows, alike(batches[stream], view), ask.key is None, alone)
                members.setdefault(kind, []).append((stream, view))
    found = []
    for (flows, _, unkeyed, _), names in members.items():
        sizes = tuple(len(batches[stream][_rows_of(view)]) for stream, view in names)
        keys = tuple(named_key(asks[stream].key, view) for stream, view in names)
        shards = placement.current().shards
        rows = Rows(sizes, shards, still=not flows, keys=None if unkeyed else keys)
        found.append(Pass(names, rows))
    return found


def named_key(key: Any, name: str) -> Any:
    """A key of its own for a name; None of None."""
    return None if key is None else jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def encode_texts(
    embed: Callable,
    encode: Callable,
    batches: Mapping[str, Batch],
    planned: Mapping[str, Ask],
    *,
    joint: bool,
) -> Found:
    """The views `text` and `text_masked` f[B L D], as far as they are asked for.

    Args:
        embed: `(ids i32[B L], segments i32[B L] or None, rows) -> f[B L D]`.
        encode: `(f[B L D], text_mask bool[B L], rows) -> f[B L D]`.
        batches: with `text i32[B L]` and/or `text_masked i32[B L]`, `text_mask bool[B L]`, and
            optionally `segments i32[B L]` (which of several texts; absent = all 0).
        planned, joint: see `plan`.
    """
    found: Found = {}
    for each in plan(batches, planned, TEXTS, alike=lambda b, view: b[view].shape[1:], joint=joint):
        for stream, view in each.members:
            check_text(batches[stream], view)
        segments = None
        if any("segments" in batches[stream] for stream, _ in each.members):
            segments = each.join(
                lambda s, view: batches[s].get("segments", jnp.zeros_like(batches[s][view]))
            )
        ids = each.join(lambda s, view: batches[s][view])
        x = embed(ids, segments, each.rows.fold(EMBEDDING))
        x = _quiet(each.rows, x)
        mask = each.join(lambda s, _: batches[s]["text_mask"])
        found |= each.cut(_quiet(each.rows, encode(x, mask, each.rows)))
    return found


def encode_images(
    embed: Callable,
    encode: Callable,
    batches: Mapping[str, Batch],
    planned: Mapping[str, Ask],
    *,
    joint: bool,
) -> Found:
    """The views `image` and `image_masked` f[I 1+N D], as far as they are asked for.

    Args:
        embed: `image -> patch embeddings f[I N D]`, once for all views of an image.
        encode: `(f[I N D], patch_mask bool[I N] or None, rows) -> f[I 1+N D]`, slot 0 the summary.
        batches: with `image u8[I H W 3]` (or float, already normalised), `patch_mask bool[I N]`.
        planned, joint: see `plan`.
    """
    found, patches = {}, {}
    for each in plan(
        batches,
        planned,
        IMAGES,
        alike=lambda b, _: (b["image"].shape[1:], b["image"].dtype),
        joint=joint,
    ):
        for stream, view in each.members:
            if stream not in patches:
                patches[stream] = embed(batches[stream]["image"])
            if view == "image_masked":
                shape = patches[stream].shape[:2]
                chex.assert_shape(batches[stream]["patch_mask"], shape)
        x = each.join(lambda s, _: patches[s])
        x = _quiet(each.rows, x)
        mask = None
        if any(view == "image_masked" for _, view in each.members):
            mask = each.join(
                lambda s, view: (
                    batches[s]["patch_mask"]
                    if view == "image_masked"
                    else jnp.zeros(patches[s].shape[:2], bool)
                )
            )
        found |= each.cut(_quiet(each.rows, encode(x, mask, each.rows)))
    return found


# {kind of input: what gives its views}, of (embed, encode, batches, asks, joint).
READ = {"text": encode_texts, "image": encode_images}


def _quiet(rows: Rows, x: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(x) if rows.still else x


def check_text(batch: Batch, view: str) -> None:
    """Looks at the shapes and types of a text and its mask."""
    chex.assert_rank(batch[view], 2)
    chex.assert_type(batch[view], int)
    chex.assert_equal_shape([batch[view], batch["text_mask"]])


def _rows_of(view: str) -> str:
    return "image" if view in IMAGES else view
