"""Grounding: the box of the thing that a phrase names, from the whole image.

The fusion encoder reads the phrase over the full-image view and its first output gives the box, as
in X-FM's bounding-box prediction (section 2.5). Boxes are (cx, cy, w, h) in 0..1 and are compared
as continuous areas. What a guess reaches is measured: the constant box that fits these very targets
best, searched anew for each of the two measures. Errors are over the images, which are drawn again
with all their regions: boxes of one image are not independent.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.data.boxes import BoxOptions
from unified_fm.data.images import MOST_PIXELS, Picture
from unified_fm.data.skips import Parts, Skips
from unified_fm.evaluators import base
from unified_fm.evaluators._batches import stack
from unified_fm.evaluators.base import BoxExample, Metric
from unified_fm.evaluators.predicted import metrics_of
from unified_fm.tasks._metrics import statistic
from unified_fm.tasks._metrics.boxes import best_constant_box, iou_of_centres
from unified_fm.tasks._scoring.scored import Scored


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
        keep = ("target", "image_id")
        found = self.ask(apply, queries.locate, params, rows, images=images, keep=keep)
        if not found:
            raise ValueError(f"no record of {self.source!r} has a usable region: nothing to ground")
        predicted, targets = found["box"], found["target"]
        overlap = iou_of_centres(predicted, targets)
        scored = self._scored(overlap, targets, found["image_id"])
        yield from metrics_of(scored, scored.report(self.seed))
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

    def _scored(self, overlap: np.ndarray, targets: np.ndarray, image: np.ndarray) -> Scored:
        """Of IoUs f[N], true boxes f[N 4], and which image each is of, i[N]."""
        mean, above = self.metric_names
        chance = {}
        for name, measure in ((mean, np.mean), (above, _share_above(self.threshold))):
            constant = best_constant_box(targets, measure)
            chance[name] = float(measure(iou_of_centres(constant[None], targets)))
        return Scored(
            counts={"regions": len(overlap), "images": len(np.unique(image))},
            statistics={
                mean: statistic.mean(overlap),
                above: statistic.share(overlap > self.threshold),
            },
            chance=chance,
            chance_is="best constant box",
            units=image,
            unit="images",
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
                places = {"image_row": np.int32(row), "image_id": np.int32(number)}
                rows.append(tokens | places | {"target": target})
            left_out.use(parts, record=lambda number=number: f"usable record {number}")
        if left_out.lossy:
            logging.warning("%s", left_out.table())
        return held, stack(rows), phrases


def _share_above(threshold: float) -> Callable[..., Any]:
    return lambda overlap, axis=None: np.mean(overlap > threshold, axis=axis)
