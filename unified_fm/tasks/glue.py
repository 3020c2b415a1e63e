"""GLUE: a sentence or two, a class or a score (X-FM section 4.6; BERT; RoBERTa).

    learnt = dict(glue=dict(task="rte"))
    c.streams = dict(task=stream("glue", "glue:data/glue/RTE:train", 16, learnt, task="rte"))

The text goes through the language encoder alone, or through UFM's shared one; a head reads its
first token. Labels are words on every border: `MNLI`'s classes stand in one order here and in
another one elsewhere.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unified_fm import choices
from unified_fm.data.glue_files import TASKS, Task
from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, TextOptions
from unified_fm.data.skips import Skip
from unified_fm.data.sources.glue import texts_of
from unified_fm.data.truth import TruthOptions
from unified_fm.evaluators.predicted import Predicted, best_label, number
from unified_fm.files import write_whole
from unified_fm.models.heads import PairHead, PooledHead
from unified_fm.objectives import base
from unified_fm.objectives.base import Output, row_weights, weighted_mean
from unified_fm.tasks._metrics import glue as metrics
from unified_fm.tasks._scoring import glue_submission
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._scoring.scored import Scored

_log = logging.getLogger(__name__)
HEADS = ("auto", "layers", "pooled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(TextOptions, TruthOptions):
    """Gives `text i32[L]`, `text_mask bool[L]`, of pairs `segments i32[L]`, and `label`: a class
    i32 in TFDS's order, or a score f32 (STS-B).

    Reads the files of GLUE (`glue:FOLDER:SPLIT`) and `tfds:glue/NAME:SPLIT`.

    Attributes:
        task: which one ("cola", "sst2", ..., "ax").
    """

    task: str
    max_len: int = 128
    mask_rate: float = 0.0
    clean: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("task", self.task, TASKS)

    @property
    def class_names(self) -> Sequence[str]:
        """As TFDS names them; none for STS-B."""
        return TASKS[self.task].classes

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` without the texts of the task, or without a usable label."""
        texts = [self.pick_text(text, rng) for text in texts_of(example, self.task)]
        arrays = self.text_arrays(texts[0], rng, *texts[1:])
        if self.predicts:
            return arrays
        task, word = TASKS[self.task], word_of(example, TASKS[self.task])
        if word is None:
            raise Skip("no usable label", repr(example.get("label"))[:80])
        label = np.int32(task.words.index(word)) if task.classes else np.float32(word)
        return arrays | {"label": label}

    def sample(self) -> dict[str, Any]:
        """As `Pipeline.sample`, with as many sentences as the task has."""
        return super().sample() | {"sentences": ["a"] * len(TASKS[self.task].texts)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    """Cross-entropy of the class, or the squared error of the score, on a head of its own.

    Attributes:
        task: which one.
        head: "layers", X-FM's (dense, layer norm, GELU, dense); "pooled", BERT's (dense, tanh,
            dropout, dense); "auto": what the model's family has.
        dropout: of the pooled head.
    """

    reads: ClassVar[Mapping[str, bool]] = {"text": True}

    task: str
    head: str = "auto"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        choices.check("task", self.task, TASKS)
        choices.check("head", self.head, HEADS)

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        logits = self.predict(net, views, batch)["logits"]
        weights, label = row_weights(batch, len(logits)), batch["label"]
        if not TASKS[self.task].classes:
            error = jnp.square(logits[:, 0] - label.astype(jnp.float32))
            loss, denominator = weighted_mean(error, weights)
            return Output(loss=loss, denominator=denominator)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        loss, denominator = weighted_mean(loss, weights)
        accuracy, _ = weighted_mean(logits.argmax(-1) == label, weights)
        return Output(loss=loss, denominator=denominator, metrics={"accuracy": accuracy})

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """`logits f32[B C]` of the classes, or the score f32[B 1]."""
        outputs = len(TASKS[self.task].classes) or 1
        kind = net.sentence_head if self.head == "auto" else self.head
        head = PairHead(outputs) if kind == "layers" else PooledHead(outputs, self.dropout)
        return {"logits": net.attach("glue_head", head)(views.text[:, 0]).astype(jnp.float32)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Predicted):
    """The task's own metrics, the one that stands for it first; and what the server takes."""

    @property
    def task(self) -> Task:
        """Which one, as the objective has it."""
        return TASKS[self.objective_options["task"]]

    @property
    def metric_names(self) -> Sequence[str]:
        """Of the diagnostic set there are none: it has no labels."""
        return metrics.METRICS.get(self.task.name, ())

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """Words as the task's files spell them; of STS-B the score."""
        del source
        logits, record, task = found["logits"], example.record, self.task
        try:
            truth: Any = word_of(record, task)
        except Skip:
            truth = None  # which is said, and then nothing is scored
        if task.classes:
            return Line(record["id"], best_label(logits, task.words), truth)
        truth = None if truth is None else float(truth)
        return Line(record["id"], number(logits[0]), truth)

    def score(self, lines: Sequence[Line]) -> Scored:
        """By GLUE's metrics; what is not finite is a wrong answer, or NaN as a score."""
        return of_lines.glue(lines, self.task.name)

    def submit(self, lines: Sequence[Line], folder: Any, stem: str) -> None:
        """Writes STEM.tsv with `index` and `prediction`, if every row has a prediction."""
        answers = [line.prediction for line in lines]
        if [line.id for line in lines] != list(range(len(lines))) or None in answers:
            _log.warning(
                "%s.tsv is not written: GLUE's server wants every row, and some could not be used"
                " or have no finite prediction",
                stem,
            )
            return
        write_whole(folder / f"{stem}.tsv", glue_submission.table(self.task, answers))


def word_of(record: Mapping[str, Any], task: Task) -> str | None:
    """The label as the task's files spell it ("1", "entailment", "3.8"); None: there is none.

    Raises:
        Skip: a label that the task does not have.
    """
    if "label_name" in record:
        return record["label_name"]
    value = record.get("label")
    if value is None or isinstance(value, bool):
        return None
    if not task.classes:
        return str(float(value)) if value >= 0 else None
    if value == -1:  # how TFDS marks hidden labels
        return None
    if not 0 <= value < len(task.words):
        raise Skip("unknown label", f"{value!r}; {task.folder} has {len(task.words)} classes")
    return task.words[int(value)]
