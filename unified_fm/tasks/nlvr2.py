"""NLVR2: is a sentence true of two images? (X-FM section 4.3)

    c.streams = dict(task=stream("nlvr2", "nlvr2:data/nlvr2/train.json", 8, dict(nlvr2=1.0)))

The sentence goes through the fusion encoder twice, over each image once; a head reads both first
states side by side. There is no swap of the images: a sentence may say left and right.
"""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import optax

from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions, label
from unified_fm.data.skips import Skip
from unified_fm.data.sources.nlvr2 import LABELS
from unified_fm.data.truth import TruthOptions
from unified_fm.evaluators.predicted import Predicted, best_label
from unified_fm.models.heads import PairHead
from unified_fm.objectives import base
from unified_fm.objectives.base import (
    Asking,
    Fuse,
    Output,
    Result,
    row_weights,
    weighted_mean,
)
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring import predictions
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._scoring.scored import Scored

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions, TruthOptions):
    """Gives `images u8[2 H W 3]`, `text i32[L]`, `text_mask bool[L]` and `label i32` (1 = true)."""

    class_names: ClassVar[Sequence[str]] = LABELS

    size: int = 384
    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: str = "none"
    num_masked: int = 0
    max_len: int = 40
    max_words: int = 40
    mask_rate: float = 0.0

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` unless there are two usable images, a sentence and a label."""
        found = example.get("images")
        if not isinstance(found, list | tuple) or len(found) != 2:
            raise Skip("not two images")
        text = self.pick_text(example.get("text"), rng)
        pair = [self.image_arrays({"image": image}, rng, [text])["image"] for image in found]
        arrays = self.text_arrays(text, rng) | {"images": np.stack(pair)}
        return arrays | ({} if self.predicts else {"label": label(example)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy of true and false, read off the fusion encoder's first state over each image.

    Nothing is stopped: the gradient reaches all three encoders.
    """

    reads: ClassVar[Mapping[str, bool]] = {"text": True}
    encodes: ClassVar[Collection[str]] = ("image", "image_memory")

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        logits = (yield from self.predict(net, views, batch))["logits"]
        weights, labels = row_weights(batch, len(logits)), batch["label"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss, denominator = weighted_mean(loss, weights)
        accuracy, _ = weighted_mean(logits.argmax(-1) == labels, weights)
        return Output(loss=loss, denominator=denominator, metrics={"accuracy": accuracy})

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Asking:
        """`logits f32[B 2]` of false and true."""
        images = batch["images"]  # u8[B 2 H W 3]
        states = net({"image": images.reshape(-1, *images.shape[2:])}).image  # f[2B 1+N D]
        pair = states.reshape(-1, 2, *states.shape[1:])
        fused = yield tuple(
            Fuse(text=views.text, text_mask=batch["text_mask"], memory=net.remember(pair[:, side]))
            for side in (0, 1)
        )
        both = jnp.concatenate([found[:, 0] for found in fused], axis=-1)  # f[B 2D]
        return {"logits": net.attach("nlvr2_head", PairHead(2))(both).astype(jnp.float32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Predicted):
    """Accuracy, and consistency where identifiers tell which pairs share a sentence.

    A part of the published addresses is dead. Papers score all pairs, so where an image is missing
    nothing is scored.
    """

    every_record: ClassVar[bool] = True
    metric_names: ClassVar[Sequence[str]] = ("accuracy", "consistency")

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """ "True" or "False", as words."""
        del source
        record = example.record
        truth = LABELS[record["label"]] if record.get("label") in (0, 1) else None
        return Line(str(record["id"]), best_label(found["logits"], LABELS), truth)

    def score(self, lines: Sequence[Line]) -> Scored:
        """By the published metrics; without published identifiers each pair is its own sentence."""
        return of_lines.nlvr2(lines)

    def submit(self, lines: Sequence[Line], folder: Any, stem: str) -> None:
        """Writes STEM.csv of `identifier,prediction`."""
        if not all(line.prediction for line in lines):
            _log.warning("%s.csv is not written: some predictions are not finite", stem)
            return
        rows = [(line.id, line.prediction) for line in lines]
        predictions.write_csv(folder / f"{stem}.csv", rows)
