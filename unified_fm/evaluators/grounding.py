"""Grounding: the box of the thing that a phrase names, from the whole image.

The fusion encoder reads the phrase over the full-image view and its first output gives the box, as
in X-FM's bounding-box prediction (section 2.5). Boxes are (cx, cy, w, h) in 0..1 and are compared
as continuous areas. What a guess reaches is measured: the constant box that fits these very targets
best, searched anew for each of the two measures.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_fm.data.boxes import BoxOptions
from unified_fm.data.images import MOST_PIXELS, Picture
from unified_fm.data.skips import Parts, Skips
from unified_fm.evaluators import base
from unified_fm.evaluators._batches import stack
from unified_fm.evaluators.base import BoxExample, Metric

_STARTS = 200  # true boxes tried as constant boxes before the best are refined
_MOVES = 24  # changes tried at once in each step of the refinement
_TARGETS = 1000  # boxes that the search looks at; its result is scored on all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """Mean IoU and the share of boxes with IoU > 0.5, over the regions of the records.

    A record's `regions` give the phrases and the boxes; the pipeline sees the phrase as the caption
    of the image, resized as a whole, so relative boxes do not change. A box that the stream of
    regions would drop is left out here too, and counted in the log.

    Attributes:
        threshold: IoU above which a box counts as found.
        shown: boxes kept for the report.
        box_format, exif: how boxes are written, and in which image; see `data.boxes.BoxOptions`.
    """

    threshold: float = 0.5
    shown: int = 12
    box_format: str = "xywh"
    exif: str = "upright"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        return ("mean_iou", f"iou_above_{self.threshold:g}")

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the mean IoU and the share above the threshold.

        Raises:
            ValueError: no record has a region.
        """
        held, rows, phrases = self._regions()
        images = held.arrays.get("image")
        found = self.ask(apply, _boxes, params, rows, images=images, keep=("target",))
        if not found:
            raise ValueError(f"no record of {self.source!r} has a usable region: nothing to ground")
        predicted, targets = found["box"], found["target"]
        overlap = iou(predicted, targets)
        constant = best_constant_box(targets, np.mean)
        yield base.mean(
            "mean_iou",
            overlap,
            chance=float(iou(constant[None], targets).mean()),
            chance_is="best constant box",
        )
        above = _share_above(self.threshold)
        constant = best_constant_box(targets, above)
        yield base.share(
            f"iou_above_{self.threshold:g}",
            overlap > self.threshold,
            chance=float(above(iou(constant[None], targets))),
            chance_is="best constant box",
        )
        # The first rows of all are those of the first process, which writes the report.
        first = self.passes.processes.index == 0
        for row in range(min(self.shown, len(phrases)) if first else 0):
            self.examples.append(
                BoxExample(
                    held.arrays["image"][rows["image_row"][row]],
                    phrases[row],
                    predicted[row],
                    targets[row],
                    float(overlap[row]),
                )
            )

    def _regions(self):
        options = BoxOptions(box_format=self.box_format, exif=self.exif)
        left_out = Skips(f"boxes of {self.source}", max_skip=1.0)
        held, rows, phrases = self.load(), [], []
        for row, number, record in held.numbered():
            picture, parts = Picture(record["image"], max_pixels=MOST_PIXELS), Parts()
            for region in record.get("regions", ()):
                parts.seen += 1
                box, problem = options.read_box(region["box"], picture, parts)
                if box is None:
                    parts.drop(problem)
                    continue
                tokens = self.tokens(region["text"], number)
                if tokens is None:
                    continue
                phrases.append(region["text"])
                x0, y0, x1, y1 = box
                size = [picture.width, picture.height] * 2
                x, y, w, h = np.divide([x0, y0, x1 - x0, y1 - y0], size)
                target = np.array([x + w / 2, y + h / 2, w, h], np.float32)
                rows.append(tokens | {"image_row": np.int32(row), "target": target})
            left_out.use(parts, record=lambda number=number: f"usable record {number}")
        if left_out.lossy:
            logging.warning("%s", left_out.table())
        return held, stack(rows), phrases


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes f[... 4] (cx, cy, w, h), broadcast; 0 without any area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = np.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def best_constant_box(targets: np.ndarray, measure: Callable[..., Any]) -> np.ndarray:
    """The one box f[4] that would score best if it were predicted for every target.

    A search: many of the targets and their median as starts, then the best of them are moved and
    resized in ever smaller steps. `measure(iou f[... N], axis=-1)` is to be maximised (`np.mean`).
    """
    rng = np.random.default_rng(0)
    seen = targets[rng.permutation(len(targets))[:_TARGETS]]
    starts = np.concatenate([np.median(seen, axis=0, keepdims=True), seen[:_STARTS]])

    def score(boxes):
        return measure(iou(boxes[:, None], seen[None]), axis=-1)

    order = np.argsort(-score(starts), kind="stable")[:8]
    boxes, best = starts[order], score(starts)[order]
    step = 0.25
    while step > 1e-3:
        moves = rng.normal(size=(_MOVES, 1, 4)) * step * rng.integers(0, 2, size=(_MOVES, 1, 4))
        tried = boxes[None] + moves  # f[moves starts 4]
        tried[..., 2:] = np.clip(tried[..., 2:], 1e-3, 1)
        scores = score(tried.reshape(-1, 4)).reshape(tried.shape[:2])
        winner = scores.argmax(axis=0)
        better = scores.max(axis=0) > best
        boxes = np.where(better[:, None], tried[winner, np.arange(len(boxes))], boxes)
        best = np.where(better, scores.max(axis=0), best)
        if not better.any():
            step *= 0.6
    return boxes[best.argmax()]


def _share_above(threshold: float) -> Callable[..., Any]:
    return lambda overlap, axis=None: np.mean(overlap > threshold, axis=axis)


def _boxes(net, batch):
    views = net(batch)
    fused = net.fuse(
        text=views.text,
        text_mask=batch["text_mask"],
        memory=views.image_memory,
        rows=jnp.arange(len(views.text)),
        view="image",
    )
    return {"box": net.box_head(fused[:, 0]).astype(jnp.float32)}
