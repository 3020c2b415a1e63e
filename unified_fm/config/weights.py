"""Weights of losses: a number, or a schedule over the run in the words of the learning rate's.

    c.streams.text.objectives.distill.weight = dict(name="linear")       from 1 to 0 along the run
    c.streams.text.objectives.distill.weight = dict(until="50%")         0 from half of it on
    c.streams.text.objectives.mlm = dict(weight=dict(name="constant", warmup="10%"))    from 0 to 1

It is a function of the steps made, refused ones too: a resumed run goes on with it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_fm.config import values
from unified_fm.config.records import Range, Record, record, setting
from unified_fm.config.settings import Settings

_OR = "or '1 epoch', '10%'"  # as in `settings`


@record
class Weight(Record):
    """A weight that changes: peak x schedule(steps made)."""

    name: str = setting(
        "linear",
        "linear, cosine or constant, after the warm-up",
        choices=("linear", "cosine", "constant"),
    )
    peak: float = setting(1.0, "the weight after the warm-up")
    warmup: int | str = setting(0, f"steps of the warm-up from 0, {_OR}", Range(0))
    until: int | str = setting("100%", f"the step at which the end is reached, {_OR}", Range(1))
    end: float = setting(0.0, "the weight from then on, as a share of the peak", Range(0, 1))


class Scheduled(NamedTuple):
    """A weight that changes, and whose it is; `place` is dotted, from the root of the config."""

    stream: str
    objective: str
    weight: Weight
    place: str


def read(given: Any, place: str) -> float | Weight:
    """A weight of what stands in a config.

    Raises:
        TypeError, ValueError: neither a number nor a dict of a schedule's keys, or one out of
            range.
    """
    if isinstance(given, Mapping):
        return Weight.of(given, place)
    values.check(given, float | Mapping, place)
    return float(given)


def scheduled(settings: Settings) -> list[Scheduled]:
    """The weights that change, in the order of the streams.

    Raises:
        TypeError, ValueError: see `read`.
    """
    found = []
    for name, stream in settings.streams.items():
        for key, value in stream.objectives.items():
            place = f"streams.{name}.objectives.{key}.weight"
            given = value.get("weight", 1.0) if isinstance(value, Mapping) else value
            weight = read(given, f"config.{place}")
            if isinstance(weight, Weight):
                found.append(Scheduled(name, key, weight, place))
    return found
