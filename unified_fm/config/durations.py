"""How long something lasts: a number of steps, a share of the run, or epochs of a stream.

    c.total_steps = "15 epochs"              of the stream `task`, or of the only stream
    c.evaluate.every = "1 epoch of pairs"
    c.optimizer.schedule.warmup = "10%"      of total_steps
    c.streams.pairs.weights = [(0, [3, 1]), ("50%", [1, 1])]      where a stage of a mixture begins
    c.streams.text.objectives.distill.weight = dict(until="50%")     where the weight of a loss ends

An epoch is the least number of steps that takes as many examples as the source has records: known
when the data is open, or from the position that a checkpoint keeps.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from unified_fm import choices
from unified_fm.config import weights as objective_weights
from unified_fm.config.settings import Settings
from unified_fm.data import source

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|\w+)(?:\s+of\s+(.*\S))?\s*")
_EPOCH, _UNITS = ("epoch", "epochs"), ("epochs", "%")
_ENDLESS = 2**40  # a source that says it has so many records has no end
_TOTAL, _WARMUP = "total_steps", "optimizer.schedule.warmup"

Counts = Mapping[str, Mapping[str, int]]
"""{stream: {"records": of its source, "batch": examples that a step takes}}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The durations of a run in steps; an interval of 0: never."""

    total: int
    warmup: int
    checkpoint_every: int
    evaluate_every: int


class _Duration(NamedTuple):
    """An amount of epochs of a stream; of percents where there is none."""

    amount: Fraction
    stream: str | None


def given(settings: Settings) -> dict[str, int | str]:
    """{dotted key: what is set there} of all durations, in the order of the fields of `Steps`."""
    return {
        _TOTAL: settings.total_steps,
        _WARMUP: settings.optimizer.schedule.warmup,
        "checkpoint.every": settings.checkpoint.every,
        "evaluate.every": settings.evaluate.every,
    }


def streams(settings: Settings) -> set[str]:
    """The streams whose epochs count; none: all durations are known without data.

    Raises:
        ValueError: a text that is no duration, with the nearest unit, or a stream that is not there
            or not told.
    """
    told = given(settings) | _given_by_weights(settings)
    texts = [(key, text) for key, text in told.items() if isinstance(text, str)]
    texts += [stage[1:] for name in settings.streams for stage in _begins(settings, name)]
    read = [_read(key, text, settings) for key, text in texts]
    return {duration.stream for duration in read if duration.stream is not None}


def resolve(settings: Settings, counts: Counts) -> Steps:
    """All durations in steps.

    Args:
        settings: of the run.
        counts: of `streams(settings)` at least.

    Raises:
        ValueError: as `streams`; or epochs of a source that has no end.
    """
    found: dict[str, int] = {}
    for key, value in given(settings).items():
        if not isinstance(value, int):
            value = _steps(key, value, settings, counts, found.get(_TOTAL, 0))
            value = value if key == _WARMUP else max(1, value)  # an interval of 0 means never
        found[key] = value
    names = [field.name for field in dataclasses.fields(Steps)]
    return Steps(**dict(zip(names, found.values(), strict=True)))


def staged(settings: Settings) -> list[str]:
    """The streams with a mixture whose stages are not told in steps."""
    return [name for name in settings.streams if any(True for _ in _begins(settings, name))]


def weights(settings: Settings, name: str, counts: Counts, total: int) -> Any:
    """A stream's `weights`, with the steps at which its stages begin.

    Args:
        settings: of the run.
        name: of the stream.
        counts: as for `resolve`.
        total: steps of the run.

    Raises:
        ValueError: as `resolve`.
    """
    found = settings.streams[name].weights
    for number, key, text in _begins(settings, name):
        found = list(found or ())
        step = max(1, _steps(key, text, settings, counts, total))  # the first stage has step 0
        found[number] = [step, *found[number][1:]]
    return found


def entries(settings: Settings, counts: Counts, total: Callable[[], int]) -> dict[str, Any]:
    """The streams' entries as `data.streams` takes them: all stages of mixtures begin at steps.

    Args:
        settings: of the run.
        counts: as for `resolve`, as soon as `total` has been asked.
        total: gives the steps of the run; asked only if a stage is told otherwise.

    Raises:
        ValueError: as `resolve`.
    """
    found = {name: stream.plain() for name, stream in settings.streams.items()}
    for name in staged(settings):
        steps = total()
        found[name]["weights"] = weights(settings, name, counts, steps)
    return found


def of_weights(
    settings: Settings, counts: Counts, total: Callable[[], int]
) -> list[tuple[objective_weights.Scheduled, dict[str, Any]]]:
    """The weights of losses that change, each with the arguments of `optim.schedules.build`.

    Args:
        settings: of the run.
        counts: as for `resolve`, as soon as `total` has been asked.
        total: gives the steps of the run; asked only if a weight changes.

    Raises:
        ValueError: as `resolve`.
    """
    found = []
    for each in objective_weights.scheduled(settings):
        steps, ends = total(), {"warmup": each.weight.warmup, "until": each.weight.until}
        for key, value in ends.items():
            if isinstance(value, str):
                value = _steps(f"{each.place}.{key}", value, settings, counts, steps)
            ends[key] = value
        numbers = {"warmup": ends["warmup"], "total_steps": max(1, ends["until"])}
        found.append((each, {"name": each.weight.name, "end": each.weight.end, **numbers}))
    return found


def even(settings: Settings, name: str) -> list[int] | None:
    """Weights of a stream's sources where steps are of no matter; None: it is no mixture."""
    stream = settings.streams[name]
    return None if stream.weights is None else [1] * len(source.entries(stream.source))


def said(settings: Settings) -> dict[str, str]:
    """{dotted key: what comes of it, in a few words} of the durations that are no integers."""
    told = given(settings) | _given_by_weights(settings)
    texts = [key for key, value in told.items() if isinstance(value, str)]
    if streams(settings):
        return dict.fromkeys(texts, "resolved when the data is open")
    steps = resolve(settings, {})
    found = dict(zip(given(settings), dataclasses.astuple(steps), strict=True))
    for each, numbers in of_weights(settings, {}, lambda: steps.total):
        found[f"{each.place}.warmup"] = numbers["warmup"]
        found[f"{each.place}.until"] = numbers["total_steps"]
    return {key: f"{found[key]} steps" for key in texts}


def _given_by_weights(settings: Settings) -> dict[str, int | str]:
    """{dotted key: what is set there} of the durations in the weights of losses."""
    return {
        f"{each.place}.{key}": value
        for each in objective_weights.scheduled(settings)
        for key, value in (("warmup", each.weight.warmup), ("until", each.weight.until))
    }


def _begins(settings: Settings, name: str) -> Iterator[tuple[int, str, str]]:
    """(number, key, text) of the stages of a stream's mixture whose beginning is a text."""
    for number, stage in enumerate(settings.streams[name].weights or ()):
        if isinstance(stage, list | tuple) and stage and isinstance(stage[0], str):
            yield number, f"streams.{name}.weights[{number}]", stage[0]


def _steps(key: str, text: str, settings: Settings, counts: Counts, total: int) -> int:
    """A duration that is a text in steps; `total` are those of the run."""
    amount, stream = _read(key, text, settings)
    if stream is None:
        return round(float(amount / 100) * total)
    return math.ceil(amount * _epoch(stream, counts[stream], key))


def _epoch(name: str, count: Mapping[str, int], key: str) -> int:
    if count["records"] >= _ENDLESS:
        raise ValueError(
            f"config.{key} counts epochs of the stream {name!r}, whose source has no end"
        )
    return -(-count["records"] // count["batch"])


def _read(key: str, text: str, settings: Settings) -> _Duration:
    found, where = _TEXT.fullmatch(text), f"config.{key} is {text!r}"
    if found is None:
        raise ValueError(f"{where}; a duration is a number of steps, '3 epochs of pairs' or '10%'")
    number, unit, stream = found.groups()
    if unit not in (*_EPOCH, "%"):
        raise ValueError(
            f"{where}: no unit is named {unit!r}; {choices.possible(unit, _UNITS)} "
            "A number of steps is an integer"
        )
    amount = Fraction(number)
    if not amount:
        raise ValueError(f"{where}: it must last longer than nothing")
    if unit == "%":
        if key == _TOTAL or stream is not None or amount > 100:
            raise ValueError(f"{where}: a share, of at most 100%, is one of total_steps")
        return _Duration(amount, None)
    return _Duration(amount, _stream(where, stream, settings))


def _stream(where: str, named: str | None, settings: Settings) -> str:
    """The stream whose epochs are meant."""
    known = list(settings.streams)
    if named is None and ("task" in known or len(known) == 1):
        return "task" if "task" in known else known[0]
    if named is None:
        raise ValueError(
            f"{where}: epochs of which stream? Say '1 epoch of {known[0]}'; "
            f"{choices.possible('', known)}"
        )
    if named not in known:
        raise ValueError(f"{where}: no stream {named!r}; {choices.possible(named, known)}")
    return named
