"""What a loaded model is made of."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.inference.abilities import Abilities
from unified_fm.inference.preprocessing import Preprocessing
from unified_fm.inference.programs import Programs

# What a task's objective predicts, by the last part of the name of its module; of others those that
# predict `logits` are heads of classes.
_KINDS = {"vqa": "answer", "vqa_generation": "answer", "captioning": "caption", "scst": "caption"}


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """An objective of the run that predicts.

    Attributes:
        stream: of the run; "" for the image head of a model without a run.
        name: of the objective in the stream.
        objective: itself; None for an image head.
        pipeline: of the stream, as it is for examples without truth.
        names: of the classes or answers, by number; empty if the run has kept none.
    """

    stream: str
    name: str
    objective: Any
    pipeline: Any
    names: Sequence[str] = ()

    def kind(self, programs: Programs) -> str:
        """ "class", "answer", "caption", or "" for what has no method (boxes, say)."""
        if self.objective is None:
            return "class"
        named = _KINDS.get(type(self.objective).__module__.rpartition(".")[2])
        if named is not None:
            return named
        rows = {name: np.zeros((1, *x.shape), x.dtype) for name, x in self.pipeline.spec().items()}
        return "class" if "logits" in programs.predicted(self.stream, self.name, rows) else ""

    @functools.cached_property
    def gives(self) -> frozenset[str]:
        """The arrays that the pipeline makes of an example."""
        return frozenset(self.pipeline.spec())

    @property
    def writes(self) -> bool:
        """Whether it has a decoder, which writes texts."""
        return self.objective is not None and "beams" in {
            field.name for field in dataclasses.fields(self.objective)
        }

    def named(self, number: int) -> str:
        """How a class is called: its number, where the run has kept no names."""
        return self.names[number] if number < len(self.names) else str(number)


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A checkpoint, ready to be asked.

    Attributes:
        programs: the model on its devices.
        preprocessing: how images and texts are read.
        tokenizer: None where there is none.
        heads: of the objectives that predict.
        params: nested dict of arrays, on the host.
        facts: what `Model.info` begins with.
    """

    programs: Programs
    preprocessing: Preprocessing
    tokenizer: Tokenizer | None
    heads: Sequence[Head]
    params: Mapping[str, Any]
    facts: Mapping[str, Any]

    def head(self, kind: str) -> Head:
        """The first head of a kind, which must be there."""
        return self.by_kind[kind]

    @functools.cached_property
    def by_kind(self) -> Mapping[str, Head]:
        """{"class", "answer", "caption": the first head of this kind}, as far as there is one."""
        found: dict[str, Head] = {}
        for head in self.heads:
            found.setdefault(head.kind(self.programs), head)
        return {kind: head for kind, head in found.items() if kind}

    @functools.cached_property
    def widths(self) -> Mapping[str, int]:
        """{"images", "texts": numbers of the encoder's summary}, as far as it reads them."""
        found, programs = {}, self.programs
        pixels, reader = self.preprocessing.image, self.preprocessing.text
        if pixels is not None:
            image = np.zeros((1, pixels.size, pixels.size, 3), np.uint8)
            found["images"] = programs.width(queries.image_summary, {"image": image})
        if reader is not None:
            ids = np.zeros((1, reader.max_len), np.int32)
            batch = {"text": ids, "text_mask": ids == 0}
            found["texts"] = programs.width(queries.text_summary, batch)
        return {name: width for name, width in found.items() if width}

    @functools.cached_property
    def abilities(self) -> Abilities:
        """Which methods work."""
        return Abilities(frozenset({*self.params, *self.by_kind, *self.widths}))
