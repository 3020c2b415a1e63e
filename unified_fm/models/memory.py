"""What texts look at in a fusion encoder or decoder: images, by row, without a copy for each text.

Several texts look at one image: its own caption, the masked copy, a wrong text, its regions.
Its keys and values are projected once a layer for all of them, and texts that look at the same row
attend to it side by side, as more queries of one attention. Keys and values are copied in three
places: those of another row's image, those of a region's image to the region's row (once for all
that look at the row, whichever its view), and, since a region has a slot 0 of its own, once more
for the view of the region alone.

The copy to the region's row could go if all regions of an image were queries of one attention.
But their number varies, from none to `max_regions`, and shapes are static: each image would need
places for the most. Published are 96 rows of 80 images and up to 5 each, so 400 places: attention
scores of four times as many rows, which take more memory than the copies (docs/performance.md).
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.groups import take
from unified_fm.models.rows import Rows, pack, spread

VIEWS = ("row", "image")


@flax.struct.dataclass
class ImageMemory:
    """Images that can be looked at, and which of them each row of a batch shows.

    Slot 0 of an image is the mean of its patches, and that of a region the mean of its own, which
    each row brings.

    Attributes:
        image: f[I 1+N D], states of the vision encoder; None if they are projected already.
        pooled: f[R D], slot 0 of each row's region. None = rows are images.
        image_index: i32[R], the image of each row inside its group. None = row r is image r.
        row_mask: bool[R N], patches of each row's region. None = all patches.
        layers: (keys, values) f[layers I 1+N H Dh], projected for all layers at once, where the
            same images are looked at again and again; None = projected where they are looked at.
        slot_mask: bool[I 1+N], the slots that may be seen, where an "image" is the states of a
            text, with its padding (what a decoder of answers looks at); None = all.
        groups: of the rows; see `Views`.
    """

    image: jax.Array | None = None
    pooled: jax.Array | None = None
    image_index: jax.Array | None = None
    row_mask: jax.Array | None = None
    layers: Any = None
    slot_mask: jax.Array | None = None
    groups: int = flax.struct.field(pytree_node=False, default=1)

    def images(self, tree: Any, rows: jax.Array | None) -> Any:
        """Arrays of the images that some rows show, tree of f[B' ...] of a tree of f[I ...].

        Args:
            tree: of arrays with an image in each place of axis 0.
            rows: i32[B'], rows of the batch inside their group; None = every row once, in order.
        """
        if self.image_index is not None:  # several rows may show the same image
            rows = self._take(self.image_index, rows)
        return self._take(tree, rows)

    def seen(
        self, whole: Any, slots: Any, rows: jax.Array | None, view: str
    ) -> tuple[Any, jax.Array | None]:
        """What some rows see of arrays of images.

        Args:
            whole: of the images that the rows show, see `images`: tree of f[B' 1+N ...].
            slots: of slot 0 of regions: tree of f[R ...], or None.
            rows: see `images`.
            view: "row" = what belongs to the row (its region); "image" = the row's whole image.

        Returns:
            (tree of f[B' 1+N ...], mask bool[B' 1+N] or None for all True).
        """
        mask = self.mask(view)
        if mask is self.slot_mask:
            return whole, self.images(mask, rows)
        slots, mask = self._take((slots, mask), rows)
        # The patches of the whole image stay; the mask says which of them the region has.
        whole = jax.tree.map(lambda x, slot: x.at[:, 0].set(slot), whole, slots)
        return whole, jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1)

    def mask(self, view: str) -> jax.Array | None:
        """Which slots may be seen, of each row or of each image; None = all.

        Fused attention knows no such mask but as a bias f[B H Q K] for every row, with a gradient
        as large: the einsum is less.
        """
        return self.row_mask if view == "row" and self.row_mask is not None else self.slot_mask

    def _take(self, tree: Any, index: jax.Array | None) -> Any:
        if index is None:
            return tree
        return jax.tree.map(lambda x: take(x, index, self.groups), tree)


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """Texts that look at the same rows of one memory.

    Attributes:
        memory: its number in the pass.
        view: see `ImageMemory.seen`.
        rows: i32[B'], or None.
        parts: numbers of the texts in the pass.
    """

    memory: int
    view: str
    rows: jax.Array | None
    parts: list[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Looks:
    """Who looks at what in one pass of the fusion encoder.

    Attributes:
        memories: of the pass.
        looks: who looks at which of them; every text of the pass is in one.
        images: the rows of the memories whose images are still to be projected.
    """

    memories: tuple[ImageMemory, ...]
    looks: tuple[Look, ...]
    images: Rows

    def attend(self, attention: Any, y: jax.Array, rows: Rows) -> jax.Array:
        """The cross-attention of one layer, f[B L D] of texts y f[B L D].

        Args:
            attention: the layer's, an `attention.Attention`.
            y: the texts of the pass, joined.
            rows: theirs.
        """
        projected = self._project(attention)
        queries = rows.cut(spread(rows, attention.query(y)))
        found: list[Any] = [None] * len(queries)
        shown: dict[Any, Any] = {}  # both views of some rows are of the same images
        for look in self.looks:
            memory, (images, slots) = self.memories[look.memory], projected[look.memory]
            at = look.memory, id(look.rows)
            if at not in shown:
                shown[at] = memory.images(images, look.rows)
            (keys, values), mask = memory.seen(shown[at], slots, look.rows, look.view)
            mask = None if mask is None else mask[:, None, None]
            asked = jnp.concatenate([queries[part] for part in look.parts], axis=1)
            keep = self._keep(attention, rows, look, asked.shape[1], keys.shape[1])
            seen = attention.look(asked, keys, values, mask=mask, keep=keep)
            pieces = jnp.split(seen, len(look.parts), axis=1)
            for part, piece in zip(look.parts, pieces, strict=True):
                found[part] = piece
        return attention.out(pack(rows, rows.join(found)))

    def masked(self) -> dict[str, bool]:
        """{what is looked at: whether slots of it may not be seen}, for the log."""
        found: dict[str, bool] = {}
        for look in self.looks:
            memory = self.memories[look.memory]
            texts = "padded texts" if memory.slot_mask is not None else "images"
            what = "regions" if look.view == "row" else texts
            found[what] = memory.mask(look.view) is not None
        return found

    def projected(self) -> Any:
        """What was projected in advance, f[layers ...] each: to be cut by layer."""
        return [memory.layers for memory in self.memories]

    def with_projected(self, layers: Any) -> "Looks":
        """With the memories of one layer, as far as they were projected in advance."""
        pairs = zip(self.memories, layers, strict=True)
        cut = tuple(dataclasses.replace(memory, layers=layer) for memory, layer in pairs)
        return dataclasses.replace(self, memories=cut)

    def at(self, layer: int) -> "Looks":
        """Those of one layer, by its number."""
        return self.with_projected(jax.tree.map(lambda x: x[layer], self.projected()))

    def _project(self, attention: Any) -> list[Any]:
        """((keys, values) f[I 1+N H Dh], (keys, values) f[R H Dh] of regions) of each memory."""
        new: list[Any] = [memory.image for memory in self.memories if memory.layers is None]
        pairs = iter(())
        if new:
            pair = attention.project(self.images.join(new))
            pairs = iter(list(zip(*map(self.images.cut, pair), strict=True)))
        return [
            (
                next(pairs) if memory.layers is None else memory.layers,
                None if memory.pooled is None else attention.project(memory.pooled),
            )
            for memory in self.memories
        ]

    def _keep(self, attention: Any, rows: Rows, look: Look, asked: int, seen: int) -> Any:
        """Which probabilities stay, bool[B' H asked seen]: each text by its own key."""
        length = asked // len(look.parts)
        drawn = [attention.draw(rows.part(part), (length, seen)) for part in look.parts]
        return None if drawn[0] is None else jnp.concatenate(drawn, axis=2)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fusing:
    """One call of `fuse`, to be made together with others.

    Attributes:
        text, text_mask, memory, rows, view: as of `xfm.Model.fuse`.
        key: of dropout; None = nothing is dropped.
    """

    text: jax.Array
    text_mask: jax.Array
    memory: ImageMemory
    rows: jax.Array | None = None
    view: str = "row"
    key: jax.Array | None = None


def look_together(
    requests: Iterable[tuple[ImageMemory, jax.Array | None, str]], shards: int
) -> Looks:
    """Who looks at what, of the (memory, rows, view) of every text of a pass.

    Those that look at the same rows of the same memory come into one look: rows that are the same
    array, not equal ones.

    Raises:
        ValueError: another view than "row" and "image".
    """
    memories: dict[int, ImageMemory] = {}
    looks: dict[Any, Look] = {}
    for part, (memory, rows, view) in enumerate(requests):
        choices.check("view", view, VIEWS)
        memories.setdefault(id(memory), memory)
        number = list(memories).index(id(memory))
        if memory.row_mask is None:
            view = "image"  # a row is its image
        look = looks.setdefault((number, id(rows), view), Look(number, view, rows, []))
        look.parts.append(part)
    new = [memory.image for memory in memories.values() if memory.layers is None]
    sizes = tuple(len(image) for image in new if image is not None)
    return Looks(tuple(memories.values()), tuple(looks.values()), Rows(sizes, shards))
