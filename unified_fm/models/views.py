"""What a model says about a batch: the documented record that objectives and evaluators read."""

from typing import cast

import flax.struct
import jax
import jax.numpy as jnp

from unified_fm import choices

# What a batch must have for a view of it, by the name of the view.
INPUTS = {
    "text": ("text",),
    "text_masked": ("text_masked",),
    "image": ("image",),
    "image_masked": ("image", "patch_mask"),
    "pooled": ("image",),
    "image_memory": ("image", "text"),  # without a text there is nobody to look at the image
}


@flax.struct.dataclass
class ImageMemory:
    """Keys and values of every fusion layer, projected once per image and gathered by row.

    One image is looked at by several texts: its own, the negatives, its regions, the box loss. All
    of them share these projections. They are exact: slot 0 is the mean of patches, and since
    projections are affine its keys and values are the means of the patches' keys and values.

    Attributes:
        layers: per fusion layer (keys, values), each f[I 1+N H Dh]; slot 0 is the whole image.
        row_layers: per fusion layer (keys, values), each f[R H Dh]: slot 0 of each row's region.
            None = rows are images.
        image_index: i32[R], the image of each row. None = row r is image r.
        row_mask: bool[R N], patches of each row's region. None = all patches.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    row_layers: tuple[tuple[jax.Array, jax.Array], ...] | None = None
    image_index: jax.Array | None = None
    row_mask: jax.Array | None = None

    def gather(self, rows: jax.Array | None = None, view: str = "row"):
        """The memory of `rows` i32[B'], for an encoder with cross-attention.

        Args:
            rows: indices into the rows of the batch; None = every row once, in order.
            view: "row" = what belongs to the row (its region); "image" = the row's whole image.

        Returns:
            ((keys, values) f[B' 1+N H Dh] per layer, mask bool[B' 1+N] or None for all True).

        Raises:
            ValueError: another `view`.
        """
        choices.check("view", view, ("row", "image"))
        images = rows  # rows are numbers of rows; several may show the same image
        if self.image_index is not None:
            images = self.image_index if rows is None else self.image_index[rows]
        layers = self.layers
        if images is not None:
            layers = jax.tree.map(lambda x: x[images], layers)
        if view == "image" or self.row_layers is None:
            return layers, None

        slots, mask = self.row_layers, cast(jax.Array, self.row_mask)
        if rows is not None:
            slots, mask = jax.tree.map(lambda x: x[rows], (slots, mask))
        # The patches of the whole image stay; the mask says which of them the region has. Only
        # slot 0, a mean, is another for each region, and was projected for each row.
        layers = jax.tree.map(lambda x, slot: x.at[:, 0].set(slot), layers, slots)
        return layers, jnp.concatenate([jnp.ones_like(mask[:, :1]), mask], axis=1)


@flax.struct.dataclass
class Views:
    """Each view of a batch, encoded once; None where the batch lacks the input.

    What no objective uses costs nothing: XLA removes it.

    Attributes:
        text: f[B L D], the language encoder on `text`; slot 0 is the sentence.
        text_masked: f[B L D], the same on `text_masked`.
        image: f[I 1+N D], the vision encoder; slot 0 is the summary of the image.
        image_masked: f[I 1+N D], the same with `patch_mask` patches hidden.
        pooled: f[B D], the summary of each row: of its region, or of its whole image.
        image_memory: see `ImageMemory`.
    """

    text: jax.Array | None = None
    text_masked: jax.Array | None = None
    image: jax.Array | None = None
    image_masked: jax.Array | None = None
    pooled: jax.Array | None = None
    image_memory: ImageMemory | None = None
