"""Whether a model's probabilities are to be believed: of classes of images, or of masked words.

A teacher whose confidence is wrong teaches that, too. One half of the examples (every other one)
gives the temperature T that minimises the cross-entropy of softmax(logits / T). Everything else is
measured on the other half, at T = 1 and at the fitted T: the cross-entropy in nats, and the
expected calibration error over bins of confidence. The bins, of which the report draws a
reliability diagram, are in `WORKDIR/calibration/NAME-STEP.json`:

    {"source": ..., "step": 600, "of": "mlm", "metrics": {"ece": 0.021, "temperature": 1.08, ...},
     "bins": [{"low": 0.0, "high": 0.0667, "count": 41, "confidence": 0.05, "accuracy": 0.07}, ...],
     "bins_fitted": [...]}

The probabilities are a softmax over all classes: of a head that was trained by another loss
("sigmoid") they say nothing.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import choices, queries
from unified_fm.evaluators import base
from unified_fm.evaluators.base import Metric
from unified_fm.files import write_whole
from unified_fm.tasks._metrics import calibration as measure

FOLDER = "calibration"
_OF = ("image", "mlm")
_log = logging.getLogger(__name__)
_END = measure.HIGH / 2  # an inverse temperature beyond it is of a search that found nothing
_Found = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """Expected calibration error, and one fitted temperature.

    Attributes:
        of: "image" = the class of each image, by the image head; "mlm" = each masked word, by the
            head of the language encoder, from texts that `pipeline="text"` masks.
        bins: of confidence, of equal width.
    """

    # The masking of texts is what is measured; images are neither augmented nor masked.
    option_defaults: ClassVar[Mapping[str, Any]] = {"augment": "none", "num_masked": 0}
    metric_names = ("cross_entropy", "cross_entropy_fitted", "ece", "ece_fitted", "temperature")

    of: str = "image"
    pipeline: str = "classify"
    num_examples: int | None = 2000
    bins: int = 15

    def __post_init__(self) -> None:
        """Raises ValueError: of something else, or no bins."""
        choices.check("calibration.of", self.of, _OF)
        if self.bins < 1:
            raise ValueError(f"calibration.bins is {self.bins}; it must be at least 1")

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the five numbers, and writes the bins.

        Raises:
            ValueError: the examples have no label or no masked word, or one half of them none.
        """
        half, other = self._halves()

        def tempered(rows, inverse):
            return self._tempered(apply, params, rows, inverse)

        inverse, counted = _fitted(lambda at: tempered(half, at))
        if not 1 / _END < inverse < _END:
            _log.warning(
                "%s on %s: no temperature is best between 1/%d and %d: where the temperature is "
                "fitted all answers are right, or no better than chance",
                *(self.place.name, self.source, _END, _END),
            )
        plain, fitted = tempered(other, 1.0), tempered(other, inverse)
        pair = {"": plain, "_fitted": fitted}
        bins = {
            name: measure.binned(found["confidence"], found["right"], self.bins)
            for name, found in pair.items()
        }
        metrics = [
            *(
                base.mean(f"cross_entropy{name}", found["loss"], better="lower")
                for name, found in pair.items()
            ),
            *(
                Metric(f"ece{name}", measure.expected_error(bins[name]), unit="%", better="lower")
                for name in pair
            ),
            Metric(
                "temperature",
                1 / inverse,
                better="neither",
                how=f"fitted on {counted}, the rest measured on {len(plain['loss'])}",
            ),
        ]
        self._keep(metrics, bins)
        yield from metrics

    def _tempered(self, apply, params, rows, inverse) -> _Found:
        """What `_of_softmax` gives of the answers in the rows of all processes, [N]."""
        given = {**rows, "inverse": np.full(_length(rows), inverse, np.float32)} if rows else {}
        fn = _words if self.of == "mlm" else _classes
        found = self.ask(apply, fn, params, given, keep=(self._answer,))
        used = found.pop(self._answer, np.empty(0)) >= 0
        if not used.any():
            raise ValueError(
                f"calibration on {self.source!r} needs two halves with something to guess; "
                "one has nothing: more examples (num_examples), or more masked words"
            )
        return {name: x[used] for name, x in found.items()}

    @property
    def _answer(self) -> str:
        """The array that holds what is to be guessed; below 0 where there is nothing."""
        return "masked_ids" if self.of == "mlm" else "label"

    def _halves(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """This process's rows of every other example, and of those between them."""
        held = self.load()
        if held.arrays and self._answer not in held.arrays:
            raise ValueError(
                f"calibration of {self.of!r} needs {self._answer!r}, which the pipeline "
                f"{self.pipeline!r} does not give: of 'image' take 'classify', of 'mlm' 'text'"
            )
        even = (held.first + np.arange(len(held.records))) % 2 == 0
        rows = ({name: x[kept] for name, x in held.arrays.items()} for kept in (even, ~even))
        first, second = (part if _length(part) else {} for part in rows)
        return first, second

    def _keep(self, metrics: list[Metric], bins: Mapping[str, measure.Bins]) -> None:
        """Writes the bins into the run's folder, and leaves them for the report."""
        values = {metric.name: metric.value for metric in metrics}
        self.examples.append(
            base.ReliabilityExample(
                bins[""],
                bins["_fitted"],
                values["ece"],
                values["ece_fitted"],
                values["temperature"],
            )
        )
        if self.place.folder is None or self.passes.processes.index:
            return
        about = {"source": self.source, "step": self.place.step, "of": self.of, "metrics": values}
        about |= {f"bins{name}": _listed(found) for name, found in bins.items()}
        folder = self.place.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.place.name}-{self.place.step}.json"
        write_whole(folder / name, json.dumps(about, indent=1))


def _fitted(tempered: Callable[[float], _Found]) -> tuple[float, int]:
    """The inverse temperature of least cross-entropy, and on how many answers it was fitted."""
    counts = []

    def slopes(at):
        found = tempered(at)
        counts.append(len(found["slope"]))
        slope, curve = (found[name].mean(dtype=np.float64) for name in ("slope", "curve"))
        return float(slope), float(curve)

    inverse = measure.minimum(slopes)
    return inverse, counts[-1]


def _listed(bins: measure.Bins) -> list[dict[str, float]]:
    edges = np.linspace(0, 1, len(bins.count) + 1)
    columns = {"low": edges[:-1], "high": edges[1:], **bins._asdict()}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _length(rows: Mapping[str, Any]) -> int:
    return len(next(iter(rows.values()), ()))


def _classes(net, batch):
    logits = queries.image_classes(net, batch)["logits"]
    return _of_softmax(logits, batch["label"], batch["inverse"])


def _words(net, batch):
    logits = queries.word_logits(net, batch)
    return _of_softmax(logits, batch["masked_ids"], batch["inverse"][:, None])


def _of_softmax(logits, answers, inverse):
    """Of softmax(inverse * logits), each f32[...] or bool[...]: the cross-entropy, its first and
    second derivative by `inverse`, the probability of the best answer and whether it is right.

    Args:
        logits: f32[... C].
        answers: i32[...]; below 0 is taken for 0.
        inverse: f32[...], 1 / T.
    """
    answers = jnp.maximum(answers, 0)[..., None]
    logits = logits - logits.max(-1, keepdims=True)
    logs = jax.nn.log_softmax(inverse[..., None] * logits)
    shares = jnp.exp(logs)
    mean = (shares * logits).sum(-1)
    return {
        "loss": -jnp.take_along_axis(logs, answers, axis=-1)[..., 0],
        "slope": mean - jnp.take_along_axis(logits, answers, axis=-1)[..., 0],
        "curve": (shares * jnp.square(logits - mean[..., None])).sum(-1),
        "confidence": shares.max(-1),
        "right": logits.argmax(-1) == answers[..., 0],
    }
