"""Image-text matching: is this the caption of this image, or a wrong one?

Each image is judged with its own caption and with a wrong one, half and half, so a guess is right
half of the time. Wrong captions are of two kinds: another record's caption, and the own one with
one object swapped for an object that is not there. X-FM's matching head is trained with two
negatives for each positive and says "no" to everything for a while, so the share of images whose
own caption scores above the wrong one is reported beside the accuracy.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_fm import queries
from unified_fm.evaluators import base
from unified_fm.evaluators._batches import stack
from unified_fm.evaluators.base import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """Accuracy and pair ranking against a random caption and against a swapped object.

    The swapped phrase is the text of one of the record's regions that its caption contains; its
    substitute is such a phrase of another record. Records without one are left out of this kind. A
    tie counts against the model.
    """

    metric_names = tuple(
        f"{kind}/{what}"
        for kind in ("random_caption", "swapped_object")
        for what in ("accuracy", "ranking")
    )

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields accuracy and ranking for each kind of wrong caption that can be made."""
        held = self.load()
        # A wrong caption may be that of a record that another process has.
        records = self.passes.processes.gather_values([_words(r) for r in held.records])
        kinds = (
            ("random_caption", random_captions(records, self.rng(0))),
            ("swapped_object", swapped_captions(records, self.rng(1))),
        )
        for kind, wrong in kinds:
            rows = [
                texts | {"image_row": np.int32(row)}
                for row, number, record in held.numbered()
                if (text := wrong[number]) is not None
                and (texts := self._texts(base.caption(record), text, number))
            ]
            images = held.arrays.get("image")
            found = self.ask(apply, _margins, params, stack(rows), images=images)
            if not found:
                continue
            margin = found["margin"]
            right = np.stack([margin[:, 0] > 0, margin[:, 1] < 0], axis=1)
            yield base.share(f"{kind}/accuracy", right, chance=0.5, chance_is="half are true")
            yield base.share(
                f"{kind}/ranking",
                margin[:, 0] > margin[:, 1],
                chance=0.5,
                chance_is="a coin",
            )

    def _texts(self, true, wrong, number):
        own, other = self.tokens(true, number), self.tokens(wrong, number)
        if own is None or other is None:
            return None
        return own | {"wrong_text": other["text"], "wrong_mask": other["text_mask"]}


def _words(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the choice of wrong captions needs of a record."""
    return {"id": record["id"], "text": record["text"], "regions": list(record.get("regions", ()))}


def random_captions(records: list[Mapping[str, Any]], rng: np.random.Generator) -> list[str | None]:
    """For each record the caption of another one that differs in words and in id.

    None where there is no such record.
    """
    chosen: list[str | None] = []
    for row, record in enumerate(records):
        own = {base.caption(record), *base.captions(record)}
        for other in rng.permutation(len(records)):
            text = base.caption(records[other])
            same = records[other].get("id", int(other)) == record.get("id", row)
            if not same and text not in own:
                chosen.append(text)
                break
        else:
            chosen.append(None)
    return chosen


def swapped_captions(
    records: list[Mapping[str, Any]], rng: np.random.Generator
) -> list[str | None]:
    """Each caption with one object's phrase replaced by a phrase that is nowhere in the record.

    None where the caption contains no region's phrase, or no other phrase exists.
    """
    phrases = [
        [p for p in _phrases(record) if contains(base.caption(record), p)] for record in records
    ]
    every = sorted({phrase for some in phrases for phrase in some})
    chosen: list[str | None] = []
    for record, own in zip(records, phrases, strict=True):
        others = [p for p in every if p not in _phrases(record)]
        if not own or not others:
            chosen.append(None)
            continue
        old, new = own[rng.integers(len(own))], others[rng.integers(len(others))]
        chosen.append(_spelled(old).sub(lambda _, new=new: new, base.caption(record), count=1))
    return chosen


def contains(text: str, phrase: str) -> bool:
    """Whether the whole words of `phrase` are in `text`, in any case."""
    return _spelled(phrase).search(text) is not None


def _spelled(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)


def _phrases(record: Mapping[str, Any]) -> list[str]:
    return [region["text"] for region in record.get("regions", ())]


def _margins(net, batch):
    """Logit of "match" minus "no match" f[B 2]: with the own and with the wrong caption."""
    count = len(batch["image"])
    both = {
        "text": jnp.concatenate([batch["text"], batch["wrong_text"]]),
        "text_mask": jnp.concatenate([batch["text_mask"], batch["wrong_mask"]]),
        "memory": queries.image_memory(net, batch),
        "rows": jnp.tile(jnp.arange(count), 2),
    }
    return {"margin": queries.match(net, both)["margin"].reshape(2, count).T}
