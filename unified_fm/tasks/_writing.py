"""What tasks have in common whose decoder writes texts: their options, and tokens to words.

A user of a trained model takes the objective of its stream with other options, and asks it:

    objective = dataclasses.replace(objective, beams=5, max_new_tokens=20)
    found = objective.predict(net, views, batch)     {"ids": i32[B L], "score": f32[B]}
    texts = [text_of(objective.vocabulary, ids) for ids in found["ids"]]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from unified_fm.data.tokenizer import Tokenizer
from unified_fm.models import decoder as decoders
from unified_fm.models.beam import Writing
from unified_fm.models.memory import ImageMemory
from unified_fm.objectives import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writer(base.Objective):
    """An objective with a text decoder of its own.

    Attributes:
        decoder: fields of the decoder's layers that differ from the fusion encoder's.
        beams, max_new_tokens, min_new_tokens, no_repeat, length_penalty, penalty: of `predict`; see
            `beam.Writing`.
        tokenizer: the run's; None while a config is looked at.
    """

    decoder: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beams: int = 3
    max_new_tokens: int = 16
    min_new_tokens: int = 1
    no_repeat: int = 0
    length_penalty: float = 1.0
    penalty: str = "length"
    tokenizer: Tokenizer | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError: texts cannot be written so."""
        _ = self.how

    @property
    def how(self) -> Writing:
        """How `predict` writes."""
        fields = [field.name for field in dataclasses.fields(Writing)]
        own: dict[str, Any] = {name: value for name, value in vars(self).items() if name in fields}
        own["samples"] = 0
        return Writing(**own)

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer. Raises ValueError if there is none."""
        if self.tokenizer is None:
            raise ValueError(f"{type(self).__module__} needs a tokenizer; none given")
        return self.tokenizer

    def attached(self, net: Any, name: str) -> Any:
        """The decoder `name` in the tree of the model."""
        return net.attach(name, net.text_decoder(self.decoder))

    def never(self, words: int) -> tuple[int, ...]:
        """Ids that are not written, of a model with so many: what is no word of the tokenizer."""
        known = self.vocabulary
        special = {known.pad_id, known.cls_id, known.mask_id, known.unk_id} - {known.sep_id}
        return (*sorted(special), *range(known.vocab_size, words))

    def write(
        self,
        decoder: Any,
        memory: ImageMemory,
        prompt: jax.Array,
        how: Writing | None = None,
        key: jax.Array | None = None,
    ) -> Any:
        """What the decoder writes about each row of a memory, a `beam.Written`.

        Args:
            decoder: bound.
            memory: of B rows.
            prompt: i32[B P], the first tokens of every text.
            how: None: as `predict` does.
            key: of draws.
        """
        end, never = self.vocabulary.sep_id, self.never(decoder.vocabulary)
        how = how or self.how
        return decoders.write(decoder, memory, prompt, how, end=end, never=never, key=key)


def text_of(tokenizer: Tokenizer, ids: np.ndarray | Sequence[int]) -> str:
    """The words of new tokens i32[L] up to the end; the prompt is not among them."""
    ids = [int(i) for i in ids]
    if tokenizer.sep_id in ids:
        ids = ids[: ids.index(tokenizer.sep_id)]
    return tokenizer.decode(ids).strip()
