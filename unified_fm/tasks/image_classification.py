"""Image classification by fine-tuning: ImageNet, any folder of classes, any set of TFDS.

    learnt = dict(image_classification=dict(classes=1000))
    c.streams = dict(task=stream("image_classification", "folder:data/imagenet/train", 128, learnt))

Erasing, mixup and cutmix are of the batch and happen inside the step, from its key; crops, flips
and RandAugment are of one image and happen in the loader.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unified_fm import choices
from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, ImageOptions, label
from unified_fm.data.truth import TruthOptions
from unified_fm.evaluators.predicted import Predicted, best_labels
from unified_fm.models.heads import ClassHead, DeepHead
from unified_fm.objectives import base
from unified_fm.objectives.base import Output, row_weights, weighted_mean
from unified_fm.tasks import _mixing
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._scoring.scored import Scored

HEADS = ("linear", "deep")
_TOP = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TruthOptions):
    """Gives `image u8[H W 3]` and `label i32`.

    Attributes:
        fit: what of an image is seen where nothing is augmented: "centre", a square in its middle,
            or "squash", all of it, resized without its aspect.
        centre: side of that square as a share of the shorter side; 0.875 is 224 of 256.
    """

    num_masked: int = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    fit: str = "centre"
    centre: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("fit", self.fit, ("centre", "squash"))
        if not 0 < self.centre <= 1:
            raise ValueError(f"centre is {self.centre}; it is a share of the side, in (0, 1]")

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` without a usable image or label."""
        target = {} if self.predicts else {"label": label(example)}
        if self.augment != "none" or self.fit == "squash":
            return self.image_arrays(example, rng) | target
        picture = self.open_picture(example)
        side = max(1, round(self.centre * min(picture.height, picture.width)))
        top, left = (picture.height - side) // 2, (picture.width - side) // 2
        return {"image": self.cut(picture, (top, left, side, side))} | target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy towards the soft targets of mixed images, on a head of its own.

    It encodes the images itself, since it changes them first. Without dropout's key (an evaluation)
    nothing is changed, and the loss is that of the labels, smoothed. Metric: `accuracy`, how often
    the best class is the one with the largest target.

    Attributes:
        classes: of the head.
        head: "linear", from zero; "deep", X-FM's of five layers.
        label_smoothing: share of the target that is spread over all classes.
        mixup, cutmix: a of their Beta distributions; 0: not that one.
        switch: chance of cutmix in a batch where both may be.
        erasing: chance of an image to have a box of noise.
    """

    encodes: ClassVar[Collection[str]] = ("image",)
    accumulates: ClassVar[bool] = False  # the images of a batch are mixed with each other

    classes: int
    head: str = "linear"
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    erasing: float = 0.25

    def __post_init__(self) -> None:
        choices.check("head", self.head, HEADS)
        shares = {"label_smoothing": self.label_smoothing, "switch": self.switch}
        for name, value in {**shares, "erasing": self.erasing}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it is a share, 0 to 1")
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(f"mixup is {self.mixup}, cutmix {self.cutmix}; 0 or more is possible")

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        del views
        images = batch["image"]
        targets = _mixing.soft(batch["label"], self.classes, self.label_smoothing)
        if net.has_rng("dropout"):
            images, targets = self._changed(net, images, targets)
        logits = self._logits(net, images)
        weights = row_weights(batch, len(logits))
        loss, denominator = weighted_mean(optax.softmax_cross_entropy(logits, targets), weights)
        accuracy, _ = weighted_mean(logits.argmax(-1) == targets.argmax(-1), weights)
        return Output(loss=loss, denominator=denominator, metrics={"accuracy": accuracy})

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """`logits f32[B C]`."""
        del views
        return {"logits": self._logits(net, batch["image"])}

    def _changed(self, net, images, targets):
        if not (self.erasing or self.mixup or self.cutmix):
            return images, targets
        erasing, mixing = jax.random.split(net.make_rng("objective"))
        images = net.normalised(images)
        if self.erasing:
            images = _mixing.erased(erasing, images, self.erasing)
        if self.mixup or self.cutmix:
            numbers = {"mixup": self.mixup, "cutmix": self.cutmix, "switch": self.switch}
            images, targets = _mixing.mixed(mixing, images, targets, **numbers)
        return images, targets

    def _logits(self, net, images):
        head = ClassHead(self.classes) if self.head == "linear" else DeepHead(self.classes)
        summary = net({"image": images}).image[:, 0]
        return net.attach("class_head", head)(summary).astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Predicted):
    """Accuracy, the mean over the classes, and how often a label is among the best five."""

    @property
    def metric_names(self) -> Sequence[str]:
        """What is scored; five are best only of five and more."""
        classes = self.objective_options["classes"]
        return ("accuracy", "mean_per_class", *(["top5"] if classes >= _TOP else []))

    def check_labels(self, names: Sequence[str]) -> None:
        """Also refuses a head of another number of classes than the stream's labels have, and names
        of classes where the model has learnt numbers alone: which is which, nobody could tell.
        """
        classes = self.objective_options["classes"]
        if self.labels and len(self.labels) != classes:
            raise ValueError(
                f"the stream {self.like!r} has {len(self.labels)} classes"
                f" ({', '.join(self.labels[:3])}, ...), and the head of its objective"
                f" {self.key!r} {classes}: set the option classes"
            )
        if names and not self.labels:
            raise ValueError(
                f"{self.source!r} has classes with names ({', '.join(names[:3])}, ...), and those"
                f" of the stream {self.like!r} are numbers without any: no prediction could be"
                " compared; give a source whose labels are these numbers"
            )
        super().check_labels(names)

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """The five best labels, by name where the classes have names."""
        # Labels that are numbers alone are those that the model has learnt.
        record, names = example.record, source.class_names or self.labels
        best = best_labels(found["logits"], self.labels, _TOP)
        number = record.get("label")
        if number is None or number < 0:
            return Line(record["id"], best)
        return Line(record["id"], best, names[number] if names else str(number))

    def score(self, lines: Sequence[Line]) -> Scored:
        """As `unified-fm score --task=classification`."""
        return of_lines.classification(lines)
