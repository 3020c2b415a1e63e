"""The contract of a model: what the step, the objectives, teachers and evaluators rely on."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm.models.config import EncoderConfig
from unified_fm.models.views import INPUTS, Views

_NO_SPACE = (
    "this model ({model}) has no common space of texts and images, in which `itc`, retrieval and "
    "search compare them; unified_fm.models.xfm and unified_fm.models.clip have"
)
Batch = Mapping[str, Any]
_TEXT = ("text_masked", "text_mask", "segments", "masked_positions")
# What of a batch `Model.targets` needs for each array that it gives.
_TAUGHT_BY = {
    **dict.fromkeys(("mlm", "mlm_all", "text_hidden"), _TEXT),
    **dict.fromkeys(("image", "image_hidden"), ("image",)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked of a stream's batch.

    Attributes:
        reads: {view: whether a gradient flows into it}.
        groups: of its rows; see `Views`.
        key: of dropout; None = nothing is dropped.
    """

    reads: Mapping[str, bool]
    groups: int = 1
    key: jax.Array | None = None


class Model(nn.Module):
    """A model, or one bound to its parameters: the `net` of an objective.

    Derive from it: then `__call__(batch) -> Views`, which encodes every view that the batch has the
    input of, once, is all that is to be written. What else an objective asks for is between it and
    the models that it works with: `fuse`, `similarity`, `mlm_head`, `itm_head`, ...

    Attributes:
        vocab_size: number of words that it knows; None = it reads no text, or does not say.
        image_size: pixels of a side of its images; None = it reads none, or does not say.
        classes: of the image head; None = it has none.
        views: names of those that it can give.
        sentence_head: the head by which its family classifies a text from the first token:
            "layers" (dense, norm, GELU, dense: `heads.PairHead`) or "pooled" (BERT's).
    """

    vocab_size = None
    image_size = None
    classes = None
    views = tuple(INPUTS)
    sentence_head = "layers"

    def encode(
        self, batches: Mapping[str, Batch], asks: Mapping[str, Ask], *, joint: bool = True
    ) -> dict[str, Views]:
        """The views that are read of several streams' batches, in as few passes as can be.

        This one gives each stream by itself all views that it has: for models that join nothing,
        and take what is dropped from Linen's rng "dropout".
        """
        del joint
        found = {}
        for name, batch in batches.items():
            net, key = self, asks[name].key
            if not self.is_initializing():
                module, variables = self.unbind()
                net = module.bind(variables, rngs={} if key is None else {"dropout": key})
            found[name] = net(batch).replace(groups=asks[name].groups)
        return found

    def fuse_together(self, asked: Sequence[Any]) -> list[jax.Array]:
        """What objectives ask the fusion encoder for, one `fuse` after the other.

        Args:
            asked: `memory.Fusing`s; their `rows` are places in the groups of `views.groups`.
        """
        return [
            self.fuse(  # of a model that has it
                text=each.text,
                text_mask=each.text_mask,
                memory=each.memory,
                rows=each.rows,
                view=each.view,
            )
            for each in asked
        ]

    @nn.nowrap
    def gives(self, keys: Collection[str]) -> frozenset[str]:
        """The names of the views that a batch with these keys gets: known before anything runs."""
        return frozenset(v for v in self.views if all(key in keys for key in INPUTS[v]))

    @nn.nowrap
    def longest_text(self) -> int | None:
        """How many tokens the longest text has that it can read; None = it does not say."""
        return None

    @nn.nowrap
    def check(self) -> None:
        """Refuses options that cannot work; runs when a config is read, so without a device.

        Raises:
            ValueError: what was wrong, and what is possible.
        """

    @nn.nowrap
    def towers(self) -> Mapping[str, EncoderConfig]:
        """{"text", "vision": the numbers of the encoder that reads it}, as far as it has them."""
        return {}

    def image_head(self, x: jax.Array) -> jax.Array:
        """Class logits f32[... C] of summaries x f[... D].

        Raises:
            ValueError: there is no such head.
        """
        raise ValueError(f"this model ({type(self).__module__}) has no image head")

    def next_sentence(self, text: jax.Array) -> jax.Array:
        """Logits f32[B 2] of texts f[B L D]: class 0 = the second sentence follows the first.

        Raises:
            ValueError: there is no such head.
        """
        raise ValueError(
            f"this model ({type(self).__module__}) has no head for next sentences;"
            " unified_fm.models.bert has"
        )

    def text_feature(self, views: Views) -> jax.Array:
        """Projections f32[B E] of texts into the space that they share with images, of length 1.

        Raises:
            ValueError: there is no such space; so in the next three.
        """
        raise ValueError(_NO_SPACE.format(model=type(self).__module__))

    def image_feature(self, views: Views) -> jax.Array:
        """The same f32[B E] of each row's image or region."""
        raise ValueError(_NO_SPACE.format(model=type(self).__module__))

    def scale(self) -> jax.Array:
        """What cosines are multiplied by before a softmax, f32[]."""
        raise ValueError(_NO_SPACE.format(model=type(self).__module__))

    def clipped_temperature(self) -> jax.Array:
        """What cosines are divided by, f32[]: one over the scale."""
        return 1 / self.scale()

    @nn.nowrap
    def text_decoder(self, fields: Mapping[str, Any] | None = None) -> nn.Module:
        """A text decoder that fits this model, for `attach`: a `decoder.TextDecoder`.

        Args:
            fields: of `EncoderConfig` that differ from what fits by itself ({"layers": 6}).

        Raises:
            ValueError: there is none.
        """
        raise ValueError(
            f"this model ({type(self).__module__}) has no text decoder (fields {fields}); "
            "unified_fm.models.xfm has"
        )

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """What it teaches: the arrays by which students are distilled, as far as it has them.

        | name | array | of |
        | --- | --- | --- |
        | `mlm` | f32[B K V] | logits at `masked_positions` |
        | `mlm_all` | f32[B L V] | logits at every position of `text_masked` |
        | `text_hidden` | f[B L D] | last states of `text_masked` |
        | `image` | f32[B C] | class logits, of a model with classes |
        | `image_hidden` | f[B 1+N D] | last states of the image |

        A step computes all of them and keeps what an objective reads: XLA removes the rest.
        """
        net: Any = self
        views, found = net(batch), {}
        if views.text_masked is not None:
            x = views.text_masked
            found |= {"text_hidden": x, "mlm_all": net.mlm_head(x)}
            if "masked_positions" in batch:
                at = jnp.take_along_axis(x, batch["masked_positions"][..., None], axis=1)
                found["mlm"] = net.mlm_head(at)
        if views.image is not None:
            found["image_hidden"] = views.image
            if self.classes:
                found["image"] = self.image_head(views.image[:, 0])
        return found

    @nn.nowrap
    def shown(self, batch: Batch, keys: Collection[str]) -> Batch:
        """What of a batch `targets` needs for the arrays `keys`; no keys: for all of them.

        So who teaches of images alone need not have parameters for texts. A model with `targets` of
        its own gets everything: it may need who knows what.
        """
        own = type(self).targets is not Model.targets
        if own or not keys or not {*keys} <= {*_TAUGHT_BY}:
            return batch
        needed = {name for key in keys for name in _TAUGHT_BY[key]}
        return {name: x for name, x in batch.items() if name in needed}

    @nn.compact
    def attach(self, name: str, head: nn.Module) -> nn.Module:
        """The head of a task, in this model's tree; made when an objective first asks for it.

        A second call with the same name has the same parameters, so the head may be asked for in
        every objective and evaluator that uses it.

        Args:
            name: of its parameters, `NAME/...`; ends in `_head` by custom, for the rules.
            head: an unbound module; it decides the initial values.

        Raises:
            ValueError: a part of the model itself has this name.
        """
        # Linen forgets after the first compact call which names are taken.
        own = {x.name for x in vars(self).values() if isinstance(x, nn.Module)}
        if name in own or name in vars(self):
            raise ValueError(f"this model has a part {name!r} of its own; another name is needed")
        return head.clone(parent=self, name=name)
