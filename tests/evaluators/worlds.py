"""A small world for the evaluators' tests: coloured squares, and a net that sees them perfectly.

`tests.evaluators.worlds:NAME` is a source string: `Source` below is what it opens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm.data import tokenizer as tokenizers
from unified_fm.data import tokenizer_training
from unified_fm.data.sources import base
from unified_fm.objectives import base as objectives
from unified_fm.objectives.base import Output, row_weights

COLOURS = ("red", "green", "blue", "black", "white", "pink", "grey", "brown")
SIZE = 8  # pixels
OPTIONS = {"size": SIZE, "patch_size": 4, "max_len": 12}


def square(colour: int, box=(1, 1, 4, 4)) -> np.ndarray:
    """u8[8 8 3]: pixel (0, 0) says the colour, (0, 1) the box as x, y, side."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[0, 0, 0] = colour
    image[0, 1] = box[:3]
    return image


def record(colour: int, number: int, box=(1, 1, 4, 4), **more: Any) -> dict[str, Any]:
    phrase = f"a {COLOURS[colour]} square"
    return {
        "image": square(colour, box),
        "text": phrase,
        "regions": [{"box": list(box), "text": phrase}],
        "objects": [COLOURS[colour]],
        "id": number,
    } | more


WORLDS = {
    "eight": [record(c, c, (c % 4, c % 3, 2 + c % 3, 2 + c % 3)) for c in range(8)],
    "duplicates": [record(c // 2, c) for c in range(8)],  # each caption twice
    "no_regions": [{"image": square(0), "text": "a red square", "id": 0}],
    "labelled": [{"image": square(c % 4), "label": c % 4, "id": c} for c in range(12)],
}


class Source(base.Source):
    """The records of one world."""

    def __init__(self, name: str):
        self._records = WORLDS[name]

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return dict(self._records[index])


def make_tokenizer() -> tokenizers.Tokenizer:
    """WordPiece in which every colour and every word of the captions is one token."""
    return tokenizer_training.train_wordpiece(["a square"] * 3, 80, [*COLOURS, "square"])


def evaluator(module, world: str, tokenizer, **config):
    """The module's Evaluator on a world."""
    options = OPTIONS | config.pop("options", {})
    source = f"tests.evaluators.worlds:{world}"
    return module.Evaluator(
        source=source, options=options, tokenizer=tokenizer, batch_size=3, **config
    )


@dataclasses.dataclass(frozen=True)
class Views:
    text: Any = None
    text_masked: Any = None
    image: Any = None
    pooled: Any = None
    image_memory: Any = None


@dataclasses.dataclass(frozen=True)
class Oracle:
    """Reads the answers off the pixels; `confused` makes it see the same in every image.

    Text states f[B L V + 8] are one-hot tokens; an image state f[B 1 V + 8] is the one-hot token of
    its colour and then its raw numbers.
    """

    tokenizer: Any
    confused: bool = False

    def __call__(self, batch):
        size = self.tokenizer.vocab_size
        views = {}
        for name in ("text", "text_masked"):
            if name in batch:
                one_hot = jax.nn.one_hot(batch[name], size)
                views[name] = jnp.pad(one_hot, ((0, 0), (0, 0), (0, 8)))
        if "image" in batch:
            image = batch["image"].astype(jnp.float32)
            tokens = jnp.array([self.tokenizer.token_id(c) for c in COLOURS])
            colour = image[:, 0, 0, 0].astype(int) * (not self.confused)
            state = jnp.concatenate(
                [jax.nn.one_hot(tokens[colour], size), image[:, 0, 1], jnp.zeros((len(image), 5))],
                axis=1,
            )
            views["image"] = views["image_memory"] = state[:, None]
            views["pooled"] = state
        return Views(**views)

    def remember(self, image):
        return image

    def text_feature(self, views):
        words = views.text.at[:, :, self._dull()].set(0).sum(1)
        return words / jnp.linalg.norm(words, axis=1, keepdims=True)

    def image_feature(self, views):
        colour = views.pooled[:, : self.tokenizer.vocab_size]
        return jnp.pad(colour, ((0, 0), (0, 8)))

    def fuse(self, *, text, text_mask, memory, rows=None, view="row"):
        seen = memory[rows]  # f[B 1 V + 8]
        mine = jnp.where(text_mask[..., None], text, 0)
        # Slot 0 says whether the colour is named, and where the square is.
        named = (mine * seen).sum((1, 2))
        first = jnp.concatenate([named[:, None], seen[:, 0, -8:]], axis=1)
        first = jnp.pad(first, ((0, 0), (0, text.shape[-1] - first.shape[1])))
        return jnp.concatenate([first[:, None], jnp.broadcast_to(seen, text[:, 1:].shape)], axis=1)

    def itm_head(self, first):
        return jnp.stack([0.5 - first[:, 0], first[:, 0] - 0.5], axis=1)

    def box_head(self, first):
        x, y, side = first[:, 1], first[:, 2], first[:, 3]
        return jnp.stack([x + side / 2, y + side / 2, side, side], axis=1) / SIZE

    def fusion_mlm_head(self, states):
        return 9.0 * states[..., : self.tokenizer.vocab_size]

    def image_head(self, first):
        return first[:, np.array([self.tokenizer.token_id(c) for c in COLOURS])]

    def mlm_head(self, states):
        return jnp.zeros((*states.shape[:-1], self.tokenizer.vocab_size))

    def _dull(self):
        dull = [self.tokenizer.token_id(word) for word in ("a", "square")]
        return np.concatenate([np.flatnonzero(self.tokenizer.is_special), dull])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(objectives.Objective):
    """The mean colour of the rows below a colour: the denominator depends on the batch."""

    below: int = 8

    def __call__(self, net, views, batch):
        colour = batch["image"][:, 0, 0, 0].astype(jnp.float32)
        used = (colour < self.below) & (row_weights(batch, len(colour)) > 0)
        count = used.sum()
        loss = (colour * used).sum() / jnp.maximum(count, 1)
        return Output(
            loss=loss,
            denominator=count,
            metrics={"half": loss / 2},
            parts={"twice": (2 * loss, count)},
        )


class Apply:
    """`apply` for a net without parameters; `compiled` counts the programs it made.

    `objectives` are {stream: {name: objective}}, as a run has them.
    """

    def __init__(self, net, objectives=None):
        self.net = net
        self.objectives = objectives
        self.compiled = 0
        self._programs = {}

    def __call__(self, fn, params, batch, rngs=None):
        def traced(batch):
            self.compiled += 1
            return fn(self.net, batch)

        if fn not in self._programs:
            self._programs[fn] = jax.jit(traced)
        return self._programs[fn](batch)

    def outputs(self, stream, params, batch, rng):
        return self(_Asked(tuple(self.objectives[stream].items())), params, batch)


@dataclasses.dataclass(frozen=True)
class _Asked:
    objectives: tuple

    def __call__(self, net, batch):
        return {name: fn(net, net(batch), batch) for name, fn in self.objectives}
