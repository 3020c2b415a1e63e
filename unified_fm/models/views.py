"""What a model says about a batch: the documented record that objectives and evaluators read."""

from collections.abc import Mapping

import flax.struct
import jax

from unified_fm.models.memory import ImageMemory

# What a batch must have for a view of it, by the name of the view.
INPUTS = {
    "text": ("text",),
    "text_masked": ("text_masked",),
    "image": ("image",),
    "image_masked": ("image", "patch_mask"),
    "pooled": ("image",),
    "image_memory": ("image", "text"),  # without a text there is nobody to look at the image
}


# Views that are made of another.
_OF = {"pooled": "image", "image_memory": "image"}


def passes(reads: Mapping[str, bool]) -> dict[str, bool]:
    """{view that takes a pass through an encoder: whether a gradient flows into it}.

    Args:
        reads: {view that is read: whether a gradient flows into it}.
    """
    found: dict[str, bool] = {}
    for view, flows in reads.items():
        source = _OF.get(view, view)
        found[source] = found.get(source, False) or flows
    return found


@flax.struct.dataclass
class Views:
    """Each view of a batch, encoded once; None where the batch lacks the input.

    What nobody reads is None too, or costs nothing, because XLA removes it.

    Attributes:
        text: f[B L D], the language encoder on `text`; slot 0 is the sentence.
        text_masked: f[B L D], the same on `text_masked`.
        image: f[I 1+N D], the vision encoder; slot 0 is the summary of the image.
        image_masked: f[I 1+N D], the same with `patch_mask` patches hidden.
        pooled: f[B D], the summary of each row: of its region, or of its whole image.
        image_memory: see `ImageMemory`.
        groups: of the rows: row r is in group r // (B / groups). Rows refer to rows of their own
            group only (an image, a negative), by their place in it.
    """

    text: jax.Array | None = None
    text_masked: jax.Array | None = None
    image: jax.Array | None = None
    image_masked: jax.Array | None = None
    pooled: jax.Array | None = None
    image_memory: ImageMemory | None = None
    groups: int = flax.struct.field(pytree_node=False, default=1)
