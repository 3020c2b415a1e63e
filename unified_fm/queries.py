"""What evaluators and users ask of a model: functions of a bound model and a batch, to be jitted.

Evaluators and the inference API call the same ones, so what is measured is what is used. Each is a
function of this module and never a closure: `step.make_apply` compiles it once for each shape of a
batch.

A batch of texts over images has `text i32[P L]` (or `text_masked`) and `text_mask bool[P L]`, and
either `image u8[P H W 3]`, an image for each text, or images that come again: `memory` (what
`image_memory` gave of I images) and `rows i32[P]`, which of them each text looks at.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

_OF_TEXT = ("text", "text_masked", "text_mask", "segments")


def image_feature(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`feature f32[B E]` of `image`: L2-normalised, in the common space."""
    return {"feature": net.image_feature(net({"image": batch["image"]})).astype(jnp.float32)}


def text_feature(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`feature f32[B E]` of `text`: L2-normalised, in the common space."""
    return {"feature": net.text_feature(net(_texts(batch))).astype(jnp.float32)}


def image_summary(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`feature f32[B D]`: slot 0 of the vision encoder, before any projection."""
    return {"feature": net({"image": batch["image"]}).image[:, 0].astype(jnp.float32)}


def text_summary(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`feature f32[B D]`: the first token of the language encoder, before any projection."""
    return {"feature": net(_texts(batch)).text[:, 0].astype(jnp.float32)}


def image_classes(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`logits f32[B C]` of the image head that the model itself has."""
    views = net({"image": batch["image"]})
    return {"logits": net.image_head(views.image[:, 0]).astype(jnp.float32)}


def scale(net: Any, batch: Mapping[str, Any]) -> jax.Array:
    """What cosines are multiplied by before a softmax, f32[]."""
    del batch
    return net.scale().astype(jnp.float32)


def text_states(net: Any, batch: Mapping[str, Any]) -> jax.Array:
    """States f[B L D] of the language encoder."""
    return net(_texts(batch)).text


def image_memory(net: Any, batch: Mapping[str, Any]) -> Any:
    """Keys and values of every fusion layer, once for each image, for texts that come again."""
    return net.remember(net({"image": batch["image"]}).image)


def look(net: Any, batch: Mapping[str, Any], view: str = "text") -> jax.Array:
    """Fusion states f[P L D] of texts (`view` "text" or "text_masked") that look at images."""
    if "memory" in batch:
        views, memory, rows = net(_texts(batch)), batch["memory"], batch["rows"]
    else:
        views = net({name: batch[name] for name in (*_OF_TEXT, "image") if name in batch})
        memory, rows = views.image_memory, jnp.arange(len(batch["image"]))
    text = views.text_masked if view == "text_masked" else views.text
    return fuse(net, text, batch["text_mask"], memory, rows)


def fuse(net: Any, text: Any, text_mask: Any, memory: Any, rows: Any) -> jax.Array:
    """Fusion states f[P L D] of states f[P L D] that look at whole images."""
    return net.fuse(text=text, text_mask=text_mask, memory=memory, rows=rows, view="image")


def match_logits(net: Any, fused: jax.Array) -> jax.Array:
    """f32[P 2] of fusion states f[P L D]; class 1 = the text is of the image."""
    return net.itm_head(fused[:, 0]).astype(jnp.float32)


def margin(net: Any, fused: jax.Array) -> jax.Array:
    """The logit of "match" minus that of "no match", f32[P]; its sigmoid is the probability."""
    logits = match_logits(net, fused)
    return logits[:, 1] - logits[:, 0]


def box(net: Any, fused: jax.Array) -> jax.Array:
    """f32[P 4] of fusion states f[P L D]: (cx, cy, w, h) in 0..1 of the whole image."""
    return net.box_head(fused[:, 0]).astype(jnp.float32)


def match(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`margin f32[P]` of texts over images."""
    return {"margin": margin(net, look(net, batch))}


def locate(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`box f32[P 4]` of what each text names in its image."""
    return {"box": box(net, look(net, batch))}


def locate_and_match(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`box` and `margin` of texts over images, from one pass."""
    fused = look(net, batch)
    return {"box": box(net, fused), "margin": margin(net, fused)}


def word_logits_over_images(net: Any, batch: Mapping[str, Any]) -> jax.Array:
    """Logits f32[P K V] at `masked_positions i32[P K]` of `text_masked`, read off the images."""
    fused = look(net, batch, "text_masked")
    return net.fusion_mlm_head(_at_masks(fused, batch)).astype(jnp.float32)


def word_logits(net: Any, batch: Mapping[str, Any]) -> jax.Array:
    """Logits f32[B K V] at `masked_positions i32[B K]` of `text_masked`, from the text alone."""
    states = net(_texts(batch)).text_masked
    return net.mlm_head(_at_masks(states, batch)).astype(jnp.float32)


def words_over_images(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`shares f32[P K V]`: probabilities of words at the masks, over images."""
    return {"shares": jax.nn.softmax(word_logits_over_images(net, batch))}


def words(net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`shares f32[B K V]`: probabilities of words at the masks, from the text alone."""
    return {"shares": jax.nn.softmax(word_logits(net, batch))}


def _texts(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in _OF_TEXT if name in batch}


def _at_masks(states: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    return jnp.take_along_axis(states, batch["masked_positions"][..., None], axis=1)  # f[B K D]
