"""A model and objectives that compile in a second, for tests of the step and the loop."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import optax

from unified_fm.evaluators import base as evaluators
from unified_fm.models import base as models
from unified_fm.objectives import base as objectives
from unified_fm.objectives.base import Output, row_weights, weighted_mean


@flax.struct.dataclass
class Views:
    """What the tiny model sees: twice f[B L D], twice f[B 1+N D]."""

    text: object = None
    text_masked: object = None
    image: object = None
    image_masked: object = None
    groups: int = flax.struct.field(pytree_node=False, default=1)


@dataclasses.dataclass(frozen=True)
class Words:
    """A head over a vocabulary: its logits, and their cross-entropy by optax."""

    logits: Callable

    def __call__(self, x):
        return self.logits(x)

    def cross_entropy(self, x, ids):
        logits = self(x)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
        return loss, logits.argmax(-1) == ids


class Layer(nn.Module):
    width: int
    dropout: float = 0.0

    def setup(self):
        self.mlp_in = nn.Dense(2 * self.width)
        self.mlp_out = nn.Dense(self.width)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x):
        y = self.mlp_out(nn.gelu(self.mlp_in(x)))
        return x + self.drop(y, deterministic=not self.has_rng("dropout"))


class Model(models.Model):
    """Words and patches through one layer each; no attention."""

    vocab_size: int = 261
    width: int = 8
    patch: int = 8
    dropout: float = 0.0

    def setup(self):
        self.word = nn.Embed(self.vocab_size, self.width)
        self.patch_embed = nn.Dense(self.width)
        self.text = Layer(self.width, self.dropout)
        self.vision = Layer(self.width, self.dropout)
        self.temperature = self.param("temperature", nn.initializers.constant(0.4), ())

    def __call__(self, batch):
        views = Views()
        if "text" in batch:
            views = views.replace(
                text=self.text(self.word(batch["text"])),
                text_masked=self.text(self.word(batch["text_masked"])),
            )
        if "image" in batch:
            x = self._patches(batch["image"])
            hidden = jnp.pad(batch["patch_mask"], ((0, 0), (1, 0)))[..., None]
            views = views.replace(
                image=self.vision(x), image_masked=self.vision(jnp.where(hidden, 0.0, x))
            )
        return views

    def _patches(self, image):
        b, h, w, c = image.shape
        p = self.patch
        x = image.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, -1, p * p * c)
        x = self.patch_embed(x.astype(jnp.float32) / 255)
        return jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)

    @property
    def mlm_head(self):
        return Words(lambda x: self.word.attend(x) / self.temperature)

    def targets(self, batch):
        """What it teaches."""
        return {"hidden": self(batch).text}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(objectives.Objective):
    """The mean over rows of a function of the text, for gradients that are easy to check.

    kind: "mean" of the squared states; "spread" compares the rows of a batch with each other, so it
    has no exact micro-batches; "poison" is not finite in batches that contain `word`; "copy" pulls
    towards the states of the teacher "old".
    """

    kind: str = "mean"
    word: int = 7
    reads: ClassVar[Mapping[str, bool]] = {"text": True}

    @property
    def accumulates(self):
        return self.kind != "spread"

    def __call__(self, net, views, batch):
        weights = row_weights(batch, len(views.text))
        text = views.text
        if self.kind == "copy":
            text = text - batch["teacher"]["old"]["hidden"]
        rows = (text**2).mean((1, 2))
        if self.kind == "spread":
            rows = (rows - rows.mean()) ** 2
        if self.kind == "poison":
            bad = (batch["text"] == self.word).any()
            rows = rows * jnp.where(bad, jnp.nan, 1.0)
        loss, count = weighted_mean(rows, weights)
        return Output(loss=loss, denominator=count, metrics={"rms": jnp.sqrt(loss)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(evaluators.Evaluator):
    """One number of the parameters."""

    scale: float = 1.0

    def run(self, apply, params):
        value = apply(_size, params, {"text": jnp.zeros((8, 2), int)})
        yield evaluators.Metric("size", self.scale * float(value), chance=0.0)


def _size(net, batch):
    return jnp.abs(net.word(batch["text"])).sum()
