"""VQA by a classifier over a list of answers (as METER, ViLT and BEiT-3 do it).

    learnt = dict(vqa=1.0)
    c.streams = dict(task=stream("vqa", "vqa:QUESTIONS:ANNOTATIONS@IMAGES", 24, learnt,
                                 answers="data/vqa/answers.json", classes=3129))

The list of answers is a JSON array of strings (`unified-fm data answers` makes it of the
annotations); the run keeps a copy, for a model means nothing without its list. A decoder that
writes answers is another objective on the same stream.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import optax

from unified_fm import choices
from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions
from unified_fm.data.skips import Skip
from unified_fm.data.specs import ArraySpec
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
from unified_fm.tasks._metrics import vqa as metrics
from unified_fm.tasks._metrics import vqa_answers
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring import predictions
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._scoring.scored import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions, TruthOptions):
    """Gives `image u8[H W 3]`, `text i32[L]`, `text_mask bool[L]` (the question) and `targets
    f32[C]`: 0.3, 0.6, 0.9 or 1 for each answer of the list, by how many of ten gave it.

    Attributes:
        answers: path of the list, a JSON array of strings; the run keeps a copy.
        classes: how many it has.
        lone_weight: the target of an answer that is the only one given, as in Visual Genome.
    """

    files: ClassVar[Sequence[str]] = ("answers",)

    answers: str
    classes: int
    lone_weight: float = 0.5
    size: int = 480
    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: str = "careful"
    num_masked: int = 0
    max_len: int = 40
    max_words: int = 40
    mask_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}; a classifier needs 2 answers")

    @functools.cached_property
    def class_names(self) -> Sequence[str]:
        """The answers. Raises ValueError: there are not as many as `classes` says."""
        found = vqa_answers.load_list(pathlib.Path(self.answers)).answers
        if len(found) != self.classes:
            raise ValueError(
                f"{self.answers} has {len(found):,} answers, and the option classes is"
                f" {self.classes:,}: the head has an output for each, so set classes of the stream"
                f" and of its objective to {len(found)}"
            )
        return found

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {answer: place for place, answer in enumerate(self.class_names)}

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` without a usable image or question, or without an answer of the list."""
        given = [str(answer) for answer in example.get("answers") or ()]
        text = self.pick_text(example.get("question"), rng)
        # A mirrored picture has another left, whether the question says so or the answer.
        arrays = self.image_arrays(example, rng, [text, *given]) | self.text_arrays(text, rng)
        if self.predicts:
            return arrays
        if not given:
            raise Skip("no answers")
        found = metrics.soft_targets(given, self._places)
        if len(given) == 1:
            found = dict.fromkeys(found, self.lone_weight)
        if not found:
            raise Skip("no answer of the list", given[0][:80])
        targets = np.zeros(self.classes, np.float32)
        targets[list(found)] = list(found.values())
        return arrays | {"targets": targets}

    def spec(self) -> dict[str, ArraySpec]:
        """As `Pipeline.spec`; the list itself need not be there."""
        without = dataclasses.replace(self, truth="unused")
        found = super(Pipeline, without).spec()
        if self.predicts:
            return found
        return found | {"targets": ArraySpec((self.classes,), np.dtype(np.float32))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Sigmoid cross-entropy towards the soft targets, summed over the answers.

    Nothing is stopped: the gradient reaches all three encoders. Metric: `accuracy`, the target of
    the most probable answer, which is the official accuracy of answers that are in the list.

    Attributes:
        classes: answers of the list, as in the pipeline.
    """

    reads: ClassVar[Mapping[str, bool]] = {"text": True, "image_memory": True}

    classes: int

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        logits = (yield from self.predict(net, views, batch))["logits"]
        targets, weights = batch["targets"], row_weights(batch, len(logits))
        if targets.shape != logits.shape:
            raise ValueError(
                f"objective 'vqa' has {logits.shape[-1]} classes, the pipeline's list of answers "
                f"{targets.shape[-1]}: set both by the option classes"
            )
        loss = optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
        loss, denominator = weighted_mean(loss, weights)
        best = jnp.take_along_axis(targets, logits.argmax(-1)[:, None], axis=1)[:, 0]
        accuracy, _ = weighted_mean(best, weights)
        return Output(loss=loss, denominator=denominator, metrics={"accuracy": accuracy})

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Asking:
        """`logits f32[B C]` of the answers, each a yes or no."""
        fused = yield Fuse(text=views.text, text_mask=batch["text_mask"], memory=views.image_memory)
        head = net.attach("vqa_head", PairHead(self.classes))
        return {"logits": head(fused[:, 0]).astype(jnp.float32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Predicted):
    """The official accuracy, overall and by the answer's type; intervals are over images.

    Attributes:
        version: "2021", the evaluator's last commit, or "2016", the copies in ALBEF and X-VLM.
    """

    metric_names: ClassVar[Sequence[str]] = ("accuracy",)
    without_list: ClassVar[str] = ""  # what is possible

    version: str = "2021"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("version", self.version, metrics.VERSIONS)

    def check(self) -> None:
        """As `Predicted.check`; raises ValueError, too, where there is no list of answers."""
        if not self.labels and self.needs_list:
            raise ValueError(
                f"the stream {self.like!r} has no list of answers to rank (option answers)"
                f"{self.without_list}"
            )
        super().check()

    @property
    def needs_list(self) -> bool:
        """Whether an answer is one of the run's list."""
        return True

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """The most probable answer of the run's list, and the annotators' answers."""
        del source
        record = example.record
        kind = {key: record[key] for key in ("answer_type",) if key in record}
        answer = best_label(found["logits"], self.labels)
        return Line(record["id"], answer, record.get("answers"), kind | of_lines.image_of(record))

    def score(self, lines: Sequence[Line]) -> Scored:
        """By the official evaluator's rules."""
        return of_lines.vqa(lines, self.version)

    def submit(self, lines: Sequence[Line], folder: Any, stem: str) -> None:
        """Writes STEM_results.json, the array that the server takes."""
        rows = [(line.id, line.prediction or "") for line in lines]
        predictions.write_array(folder / f"{stem}_results.json", rows, "question_id", "answer")
