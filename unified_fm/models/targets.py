"""What a model teaches: the arrays by which students are distilled.

| name | array | of |
| --- | --- | --- |
| `mlm` | f32[B K V] | logits at `masked_positions` |
| `mlm_all` | f32[B L V] | logits at every position of `text_masked` |
| `text_hidden` | f[B L D] | last states of `text_masked` |
| `image` | f32[B C] | class logits |
| `image_hidden` | f[B 1+N D] | last states of the image |

A step computes all of them and keeps what an objective reads: XLA removes the rest.
"""

import jax.numpy as jnp


def text_targets(net, views, batch) -> dict:
    """`mlm`, `mlm_all` and `text_hidden`, for a batch with masked text."""
    if views.text_masked is None:
        return {}
    x = views.text_masked
    found = {"text_hidden": x, "mlm_all": net.mlm_head(x)}
    if "masked_positions" in batch:
        at = jnp.take_along_axis(x, batch["masked_positions"][..., None], axis=1)  # f[B K D]
        found["mlm"] = net.mlm_head(at)
    return found


def image_targets(net, views) -> dict:
    """`image` (of a model with classes) and `image_hidden`, for a batch with images."""
    if views.image is None:
        return {}
    found = {"image_hidden": views.image}
    if net.classes:
        found["image"] = net.image_head(views.image[:, 0])
    return found
