"""What a model teaches: the arrays by which students are distilled.

| name | array | of |
| --- | --- | --- |
| `mlm` | f32[B K V] | logits at `masked_positions` |
| `mlm_all` | f32[B L V] | logits at every position of `text_masked` |
| `text_hidden` | f[B L D] | last states of `text_masked` |
| `image` | f32[B C] | class logits, of a model with classes |
| `image_hidden` | f[B 1+N D] | last states of the image |

A step computes all of them and keeps what an objective reads: XLA removes the rest.
"""

from typing import Any

import jax
import jax.numpy as jnp

Targets = dict[str, jax.Array]


def targets(net: Any, batch: Any) -> Targets:
    """The arrays above that `net` has of a batch: those of text, of images, or both."""
    views = net(batch)
    found = {}
    if views.text_masked is not None:
        x = views.text_masked
        found |= {"text_hidden": x, "mlm_all": net.mlm_head(x)}
        if "masked_positions" in batch:
            at = jnp.take_along_axis(x, batch["masked_positions"][..., None], axis=1)  # f[B K D]
            found["mlm"] = net.mlm_head(at)
    if views.image is not None:
        found["image_hidden"] = views.image
        if net.classes:
            found["image"] = net.image_head(views.image[:, 0])
    return found
