"""VQA by a decoder that writes the answer, or ranks those of a list (X-FM section 4.2).

    learnt = dict(vqa_generation=1.0)
    c.streams = dict(task=stream("vqa_generation", "vqa:QUESTIONS:ANNOTATIONS@IMAGES", 6 * 24,
                                 learnt, images=24, answers="data/vqa/answers.json"))

Rows of a batch are pairs of a question and one of its answers, packed into a fixed number
(`batch_size`) for a fixed number of questions (`images`). The decoder looks at what the fusion
encoder makes of the question over the image. `tasks/vqa.py` is the classifier on the same data.

To ask a model: `objectives.base.predicted(net, objective, views, batch)` with `batch = {"image",
"text", "text_mask"}`. It writes; `objective.with_answers(answers)` also ranks these.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import choices
from unified_fm.data import packing, specs
from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions
from unified_fm.data.skips import Skip
from unified_fm.data.specs import ArraySpec
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.data.truth import TruthOptions
from unified_fm.evaluators import base as evaluators
from unified_fm.models import ranking
from unified_fm.models.memory import ImageMemory
from unified_fm.models.ranking import Candidates
from unified_fm.objectives.base import Asking, Fuse, Output, Result, predicted
from unified_fm.tasks import vqa
from unified_fm.tasks._metrics import vqa_answers
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._writing import Writer, text_of

NAME = "answer_decoder"
_LONGEST = 64  # tokens of an answer of a list


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions, TruthOptions):
    """Gives, of each question, `image u8[H W 3]`, `text i32[L]`, `text_mask bool[L]` and `asked
    f32`, the weight of all its answers (0: an empty slot); of each pair `answer i32[A]`,
    `answer_mask bool[A]`, `answer_weight f32` (the share of the annotators who gave it) and
    `answer_of i32`, the place of its question in its group.

    Of too many pairs those with the least weight are left out; `dropped` of the objective counts
    them.

    Attributes:
        answers: path of a list, a JSON array of strings, which a decoder can rank; the run keeps a
            copy. "": there is none, and answers are written only.
        answer_form: "normalised", as the official evaluator compares them, or "as_is".
        max_answer_len: tokens of an answer, cls and sep included.
        genome_weight: of the one answer of a question of Visual Genome.
    """

    packed: ClassVar[bool] = True
    files: ClassVar[Sequence[str]] = ("answers",)

    answers: str = ""
    answer_form: str = "normalised"
    max_answer_len: int = 10
    genome_weight: float = 0.5
    size: int = 480
    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: str = "careful"
    num_masked: int = 0
    max_len: int = 40
    mask_rate: float = 0.0
    clean: str = "question"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("answer_form", self.answer_form, ("normalised", "as_is"))
        if self.max_answer_len < 3:
            raise ValueError(f"max_answer_len is {self.max_answer_len}; cls, sep and a word need 3")

    @functools.cached_property
    def class_names(self) -> Sequence[str]:
        """The answers of the list."""
        return vqa_answers.load_list(self.answers).answers if self.answers else ()

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Raises `Skip` without a usable image, question or answer."""
        given = [str(answer) for answer in example.get("answers") or ()]
        text = self.pick_text(example.get("question"), rng)
        # A mirrored picture has another left, whether the question says so or the answer.
        arrays = self.image_arrays(example, rng, [text, *given]) | self.text_arrays(text, rng)
        if self.predicts:
            return arrays
        of_genome = example.get("dataset") == "vg"
        weights = self._weights(given, self.genome_weight if of_genome else 1.0)
        if of_genome and self.class_names and not set(weights) & set(self.class_names):
            raise Skip("no answer of the list", given[0][:80])
        shares = np.array(list(weights.values()), np.float32)
        rows = [self._row(answer) for answer in weights]
        rows = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        rows["answer_weight"] = shares
        return arrays | {"asked": shares.sum(), "rows": rows, "priority": -shares}

    def spec(self) -> dict[str, ArraySpec]:
        """As `Pipeline.spec`; the questions have the axis of the images."""
        if self.predicts:
            return super().spec()
        batch, blank = self.collate([None], rows=1, groups=1), self._blank()
        return {
            name: specs.of_one(array[0], "images" if name in blank else "rows")
            for name, array in batch.items()
        }

    def collate(self, examples: list[dict[str, Any] | None], *, rows: int, groups: int) -> Arrays:
        """Packs questions and their pairs into one batch; see `packing.pack`."""
        pair = {name: array[None] for name, array in self._row("").items()}
        batch = packing.pack(
            examples,
            rows=rows,
            groups=groups,
            blank=pair | {"answer_weight": np.zeros(1, np.float32)},
            blank_image=self._blank(),
        )
        del batch["weight"]  # a row that fills up has no `answer_weight`
        return batch | {"answer_of": batch.pop("image_index")}

    def _weights(self, given: Sequence[str], total: float) -> dict[str, float]:
        as_is = self.answer_form == "as_is"
        found = [vqa_answers.strip(a) if as_is else vqa_answers.normalise(a) for a in given]
        counts = Counter(answer for answer in found if answer)
        if not counts:
            raise Skip("no answers")
        return {answer: total * n / len(found) for answer, n in counts.items()}

    def _row(self, answer: str) -> Arrays:
        encoded = self.tokenizer.encode(answer, self.max_answer_len)
        return {"answer": encoded.ids, "answer_mask": encoded.mask}

    def _blank(self) -> Arrays:
        """The arrays of a question's slot that stays empty."""
        text = self.tokenizer.encode("", self.max_len)
        blank = {"image": np.zeros((self.size, self.size, 3), np.uint8)}
        return blank | {"text": text.ids, "text_mask": text.mask, "asked": np.float32(0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Writer):
    """Cross-entropy of an answer's tokens, summed, weighted by who gave it; mean over questions.

    Nothing is stopped: the gradient reaches all encoders. Metrics: `accuracy` of the tokens,
    and `dropped`, the share of the answers' weight for which the batch had no room.

    Attributes:
        candidates: answers that are ranked, not an option of a config; None: none are.
        k_test: rank only the candidates whose first token is among the most probable of so many;
            0: all. X-FM: 128.
        most_tokens: candidates of so many tokens and more are ranked by `k_test` only; where that
            is 0, all are, in any case.
        first_token_twice: add the log-probability of the first token once more, as the published
            program does.
    """

    reads: ClassVar[Mapping[str, bool]] = {"text": True, "image_memory": True}
    refers: ClassVar[bool] = True

    beams: int = 1
    max_new_tokens: int = 10
    candidates: Candidates | None = dataclasses.field(default=None, repr=False, compare=False)
    k_test: int = 128
    most_tokens: int = 100_000
    first_token_twice: bool = False

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        memory = yield from self._question(views, batch)
        decoder, answer = self.attached(net, NAME), batch["answer"]  # i32[P A]
        states = decoder(answer[:, :-1], memory, batch["answer_of"])
        loss, right = decoder.mlm_head.cross_entropy(states, answer[:, 1:])
        counts = batch["answer_mask"][:, 1:] * batch["answer_weight"][:, None]  # f32[P A-1]
        asked = batch["asked"]
        questions = (asked > 0).sum().astype(jnp.float32)
        kept = jnp.maximum(counts.sum(), 1e-9)
        total = jnp.maximum(asked.sum(), 1e-9)
        return Output(
            loss=jnp.where(counts > 0, loss * counts, 0.0).sum() / jnp.maximum(questions, 1),
            denominator=questions,
            metrics={
                "accuracy": (right * counts).sum() / kept,
                "dropped": 1 - batch["answer_weight"].sum() / total,
            },
        )

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Asking:
        """`ids i32[B L]`, the tokens of the answer that is written, and `score f32[B]`.

        With candidates also `ranked f32[B A]`, the log-probability of each; -inf: not looked at.
        """
        memory = yield from self._question(views, batch)
        decoder = self.attached(net, NAME)
        first = jnp.full((len(batch["text"]), 1), self.vocabulary.cls_id)
        found = self.write(decoder, memory, first)
        written = {"ids": found.ids[:, 0], "score": found.scores[:, 0]}
        return written if self.candidates is None else written | self._ranked(decoder, memory)

    def with_answers(self, answers: Sequence[str]) -> "Objective":
        """This objective, which also ranks these answers.

        Raises:
            ValueError: no answer, or no tokenizer.
        """
        return dataclasses.replace(self, candidates=tokenized(answers, self.vocabulary))

    def _question(self, views: Any, batch: Mapping[str, Any]) -> Generator[Fuse, Any, ImageMemory]:
        """The questions over their images, as the decoder looks at them: never at the padding."""
        mask = batch["text_mask"]
        fused = yield Fuse(text=views.text, text_mask=mask, memory=views.image_memory)
        return ImageMemory(image=fused, slot_mask=mask, groups=views.groups)

    def _ranked(self, decoder: Any, memory: ImageMemory) -> dict[str, jax.Array]:
        texts, known = self.candidates, self.vocabulary
        assert texts is not None
        if self.k_test and texts.places > self.most_tokens:
            scores = ranking.best_scores(decoder, memory, known.cls_id, texts, count=self.k_test)
        else:
            scores = ranking.all_scores(decoder, memory, known.cls_id, texts, end=known.sep_id)
        if self.first_token_twice:
            scores = scores + ranking.first_scores(decoder, memory, known.cls_id, texts)
        return {"ranked": scores}


def tokenized(answers: Sequence[str], tokenizer: Tokenizer) -> Candidates:
    """The answers of a list, to be ranked.

    Raises:
        ValueError: no answer.
    """
    encoded = [tokenizer.encode(answer, _LONGEST) for answer in answers]
    return ranking.candidates([e.ids[1 : e.length - 1].tolist() for e in encoded], tokenizer.sep_id)


@dataclasses.dataclass(frozen=True, eq=False)
class _Ask:
    """`predict` as a function for `apply`, which compiles it once."""

    objective: Objective
    name: str

    def __call__(self, net: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        return {self.name: predicted(net, self.objective, net(batch), batch)[self.name]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(vqa.Evaluator):
    """The official accuracy of ranked or of written answers; the rest is the classifier's.

    Attributes:
        method: "ranked": the best of the run's list; "written": whatever the decoder writes, as the
            evaluator normalises it.
    """

    without_list: ClassVar[str] = "; possible: method='written'"

    method: str = "ranked"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("method", self.method, ("ranked", "written"))

    @property
    def needs_list(self) -> bool:
        """Where answers are ranked; what is written needs none."""
        return self.method == "ranked"

    def ask(self, apply: evaluators.Apply, params: Any, batch: Mapping[str, Any]) -> Any:
        """`ranked` or `ids` of the rows of a batch."""
        return apply(self._asked, params, batch)

    @functools.cached_property
    def _asked(self) -> _Ask:
        given = {k: v for k, v in self.objective_options.items() if k not in ("name", "weight")}
        objective = Objective(**given, tokenizer=self.tokenizer)
        if self.method == "written":
            return _Ask(objective, "ids")
        return _Ask(objective.with_answers(self.labels), "ranked")

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """The answer, and the annotators' answers; None: no number was finite."""
        line = super().line(example, {"logits": np.zeros(0)}, source)
        if self.method == "written":
            written = text_of(self.vocabulary, found["ids"])
            return line._replace(prediction=vqa_answers.normalise(written))
        scores = found["ranked"]
        best = int(scores.argmax())
        return line._replace(prediction=self.labels[best] if np.isfinite(scores[best]) else None)
