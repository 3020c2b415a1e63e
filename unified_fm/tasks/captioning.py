"""Captioning: a decoder looks at the image and writes a sentence about it (X-FM section 4.5).

    learnt = dict(captioning=1.0)
    c.streams = dict(task=stream("captioning", "karpathy:dataset_coco.json:train@data/coco", 32,
                                 learnt, size=384))

Every caption begins with a prompt, "a picture of", from which the model goes on; the loss counts
the tokens behind it, and what is written is stripped of it by the number of its tokens.
`tasks/scst.py` goes on from such a model.

To ask a model: `Objective.predict(net, views, batch)` with `batch = {"image", "prompt"}`, the
prompt as `Pipeline.prompt_ids`; `_writing` says how options are changed, and ids become words.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from unified_fm.data.loader import Example
from unified_fm.data.pipelines.base import Arrays, ImageOptions, TextOptions
from unified_fm.data.truth import TruthOptions
from unified_fm.evaluators.predicted import Predicted
from unified_fm.models.memory import ImageMemory
from unified_fm.objectives.base import Output, row_weights, weighted_mean
from unified_fm.tasks._metrics.ptb import tokenize
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring import predictions
from unified_fm.tasks._scoring.lines import Line
from unified_fm.tasks._scoring.scored import Scored
from unified_fm.tasks._writing import Writer, text_of

NAME = "caption_decoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(ImageOptions, TextOptions, TruthOptions):
    """Gives `image u8[H W 3]`, `prompt i32[P]` and, of one of the captions, `text i32[L]` (which
    begins with the prompt), `text_mask bool[L]` and `loss_mask bool[L]`, True on the tokens behind
    the prompt, the end included.

    Attributes:
        prompt: words that every caption begins with; "" for none.
        references: so many of the captions come along as `references u8[R C]`: their words as the
            metrics read them, in UTF-8 with spaces between, for `scst`; 0: none.
        reference_bytes: C; what is longer is cut behind a word.
    """

    prompt: str = "a picture of"
    references: int = 0
    reference_bytes: int = 256
    size: int = 384
    crop_scale: tuple[float, float] = (0.5, 1.0)
    num_masked: int = 0
    max_len: int = 40
    mask_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_len < len(self.prompt_ids) + 2:
            raise ValueError(
                f"max_len is {self.max_len}; the prompt {self.prompt!r}, a word and the end need "
                f"{len(self.prompt_ids) + 2}"
            )

    @functools.cached_property
    def prompt_ids(self) -> np.ndarray:
        """i32[P], the tokens that every caption begins with."""
        encoded = self.tokenizer.encode(self.prompt, self.max_len)
        return encoded.ids[: encoded.length - 1]  # without the end

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> Arrays:
        """Raises `Skip` if there is no usable image or caption."""
        start = {"prompt": self.prompt_ids}
        if self.predicts:
            return start | self.image_arrays(example, rng)
        text = self.pick_text(example.get("text"), rng)
        arrays = self.image_arrays(example, rng, [text])
        arrays |= self.text_arrays(f"{self.prompt} {text}".strip(), rng)
        behind = np.arange(self.max_len) >= len(self.prompt_ids)
        arrays["loss_mask"] = arrays["text_mask"] & behind
        if self.references:
            arrays["references"] = self._references(example["text"])
        return start | arrays

    def _references(self, texts: str | Sequence[str]) -> np.ndarray:
        texts = [texts] if isinstance(texts, str) else texts
        found = np.zeros((self.references, self.reference_bytes), np.uint8)
        for row, text in zip(found, texts, strict=False):
            content = " ".join(tokenize(text)).encode()
            if len(content) > self.reference_bytes:
                content = content[: self.reference_bytes + 1].rpartition(b" ")[0]
            row[: len(content)] = np.frombuffer(content, np.uint8)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Writer):
    """Cross-entropy of each token behind the prompt, mean over all of them.

    Nothing is stopped: the gradient reaches the vision encoder. Metric: `accuracy` of the tokens.

    Attributes:
        label_smoothing: e; the true token has 1 - e of the target and each other e / (V - 1), as in
            ALBEF's family.
    """

    reads: ClassVar[Mapping[str, bool]] = {"image": True}

    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)")

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        decoder = self.attached(net, NAME)
        text = batch["text"]  # i32[B L]
        states = decoder(text[:, :-1], ImageMemory(image=views.image))
        loss, right = decoder.mlm_head.cross_entropy(
            states, text[:, 1:], smoothing=self.label_smoothing
        )
        weights = batch["loss_mask"][:, 1:] * row_weights(batch, len(text))[:, None]
        mean, denominator = weighted_mean(loss, weights)
        accuracy, _ = weighted_mean(right, weights)
        return Output(loss=mean, denominator=denominator, metrics={"accuracy": accuracy})

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """`ids i32[B L]`, the best caption's tokens behind `prompt i32[B P]`, and `score f32[B]`.

        What follows the end is the end again; for the score see `beam`.
        """
        decoder = self.attached(net, NAME)
        found = self.write(decoder, ImageMemory(image=views.image), batch["prompt"])
        return {"ids": found.ids[:, 0], "score": found.scores[:, 0]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Predicted):
    """CIDEr-D, BLEU and ROUGE-L of the captions that are written; intervals are over images."""

    metric_names: ClassVar[Sequence[str]] = (
        "cider",
        *(f"bleu{n}" for n in range(1, 5)),
        "rouge_l",
    )

    def line(self, example: Example, found: Mapping[str, np.ndarray], source: Any) -> Line:
        """The caption that is written, and all captions of the record."""
        del source
        record = example.record
        truth = record.get("text") or None
        truth = [truth] if isinstance(truth, str) else truth
        return Line(record["id"], text_of(self.vocabulary, found["ids"]), truth)

    def score(self, lines: Sequence[Line]) -> Scored:
        """With the frequencies of these references."""
        return of_lines.captions(lines)

    def submit(self, lines: Sequence[Line], folder: Any, stem: str) -> None:
        """Writes STEM_results.json, COCO's form of results."""
        rows = [(line.id, line.prediction) for line in lines]
        predictions.write_array(folder / f"{stem}_results.json", rows, "image_id", "caption")
