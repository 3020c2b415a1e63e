"""Which numbers a config may have: what cannot work is refused before any device is touched."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from unified_fm import plugins
from unified_fm.data import batching
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.pipelines import base as pipelines


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be: from `low` to `high`, the ends themselves or not."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is inside; one that is not finite never is."""
        low = value > self.low if self.open_low else value >= self.low
        high = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return f"in {'[('[self.open_low]}{self.low:g}, {self.high:g}{'])'[self.open_high]}"


_POSITIVE, _NOT_NEGATIVE = Range(1), Range(0)
_SHARE, _DECAY, _ABOVE = Range(0, 1), Range(0, 1, open_high=True), Range(0, open_low=True)
_OF_RUN = {
    "total_steps": _POSITIVE,
    "accumulate": _POSITIVE,
    "ema": _DECAY,
    "optimizer.lr": _NOT_NEGATIVE,
    "optimizer.b1": _DECAY,
    "optimizer.b2": _DECAY,
    "optimizer.eps": _ABOVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.clip": _ABOVE,
    "optimizer.schedule.warmup_steps": _NOT_NEGATIVE,
    "optimizer.schedule.warmup_fraction": _SHARE,
    "optimizer.schedule.end": _SHARE,
    "checkpoint.every": _POSITIVE,
    "checkpoint.keep": _POSITIVE,
    "checkpoint.max_failures": _POSITIVE,
    "log.every": _POSITIVE,
    "telemetry.every": _NOT_NEGATIVE,
    "evaluate.every": _NOT_NEGATIVE,
    "nonfinite.max_in_a_row": _POSITIVE,
}
_OF_STREAM = {
    "batch_size": _POSITIVE,
    "images": _POSITIVE,
    "packs": _POSITIVE,
    "max_skip": _SHARE,
    "cycle": _NOT_NEGATIVE,
    "threads": _NOT_NEGATIVE,  # 0: one per core
}
_CHOICES = {
    "mode": ("train", "evaluate"),
    "evaluate.params": ("params", "ema"),
    "checkpoint.best_mode": ("max", "min"),
    "telemetry.scope": ("model", "layer", "tensor"),
}


def check(config: Mapping[str, Any]) -> None:
    """Refuses numbers of a complete config that cannot work, each by itself and together.

    Args:
        config: its keys exist and its values have the right types (`options.check`).

    Raises:
        ValueError: the key, the value found, and what is possible.
    """
    for place, wanted in _OF_RUN.items():
        _within(wanted, _at(config, place), place)
    for place, choices in _CHOICES.items():
        value = _at(config, place)
        if value is not None and value not in choices:
            either = " or ".join(map(repr, choices))
            raise ValueError(f"config.{place} is {either}, found {value!r}")
    _check_mesh(config["mesh"])
    for name, stream in config["streams"].items():
        for key, wanted in _OF_STREAM.items():
            _within(wanted, stream.get(key), f"streams.{name}.{key}")
        _check_stream(config, name, stream)
    if config["evaluate"]["params"] == "ema" and config["ema"] is None:
        raise ValueError(
            "config.evaluate.params is 'ema', so config.ema must be a decay like 0.999"
        )
    _check_projection(config["optimizer"]["project"] or ())


def best(config: Mapping[str, Any], evaluators: Mapping[str, Any]) -> None:
    """Refuses a `checkpoint.best` that no evaluator measures.

    Args:
        config: complete.
        evaluators: {name: what has `metric_names`, or not}.

    Raises:
        ValueError: with the nearest metric.
    """
    wanted, how = config["checkpoint"]["best"], config["evaluate"]
    if wanted is None:
        return
    if not (how["every"] or how["at_end"]):
        raise ValueError(
            f"config.checkpoint.best is {wanted!r}, but nothing is evaluated: evaluate.every is 0 "
            "and evaluate.at_end false"
        )
    known = {}
    for name, evaluator in evaluators.items():
        names = getattr(evaluator, "metric_names", None)
        known[name] = None if names is None else [f"{name}/{metric}" for metric in names]
    name = wanted.partition("/")[0]
    if name in known and known[name] is None and "/" in wanted:
        return  # the evaluator does not say what it measures
    metrics = [metric for found in known.values() for metric in found or ()]
    if not any(wanted == metric or wanted.startswith(f"{metric}/") for metric in metrics):
        metrics += [f"{name}/..." for name, found in known.items() if found is None]
        metrics = known.get(name) or metrics
        raise ValueError(
            f"config.checkpoint.best is {wanted!r}, which no evaluator measures; "
            f"{plugins.possible(wanted, metrics)}"
        )


def _within(wanted: Range, value: Any, place: str) -> None:
    if value is not None and not wanted.holds(value):
        noun = "an integer" if isinstance(value, int) and wanted.high == math.inf else "a number"
        raise ValueError(f"config.{place} must be {noun} {wanted}, found {value!r}")


def _at(config: Mapping[str, Any], place: str) -> Any:
    for key in place.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _check_mesh(mesh: Mapping[str, int]) -> None:
    for axis, size in mesh.items():
        if size != -1 and size < 1:
            raise ValueError(
                f"config.mesh.{axis} must be an integer of at least 1, or -1 (the rest of the "
                f"devices), found {size!r}"
            )
    rest = [axis for axis, size in mesh.items() if size == -1]
    if len(rest) > 1:
        raise ValueError(f"config.mesh: at most one size is -1 (the rest), found {', '.join(rest)}")


def _check_stream(config: Mapping[str, Any], name: str, stream: Mapping[str, Any]) -> None:
    """The batch of a stream must be split over the mesh and into micro-batches."""
    made = pipelines.load(stream["pipeline"])
    packed, accumulate = made.packed, config["accumulate"]
    place = f"config.streams.{name}"
    if packed and "images" not in stream:
        raise ValueError(f"{place} packs several rows per image, so it lacks images=... of a batch")
    packs = stream.get("packs", 1) if packed else 1
    if packed and accumulate > 1 and packs % accumulate:
        raise ValueError(
            f"{place}.packs = {packs} cannot be cut into accumulate = {accumulate} micro-batches"
        )
    mesh = {axis: max(1, size) for axis, size in config["mesh"].items()}  # -1 may be any
    parts = mesh["data"] * mesh["fsdp"] * accumulate
    for key in ("batch_size", "images") if packed else ("batch_size",):
        if stream[key] % parts:
            raise ValueError(
                f"{place}.{key} = {stream[key]} cannot be split into {parts} equal parts: "
                f"mesh.data = {config['mesh']['data']}, mesh.fsdp = {config['mesh']['fsdp']}, "
                f"accumulate = {accumulate}"
            )
        if stream[key] % packs:
            raise ValueError(f"{place}.{key} = {stream[key]} cannot be split into {packs} packs")
    own = batching.own_options(made)
    check_pipeline(stream["pipeline"], {k: v for k, v in stream.items() if k not in own}, place)


def check_pipeline(name: str, options: Mapping[str, Any], place: str) -> None:
    """Builds a pipeline of the library to see whether it refuses its options.

    A user's own may need what is not there yet (the run's tokenizer), so it is left for later.

    Raises:
        ValueError, TypeError: what it says.
    """
    if "." in name:
        return
    made = pipelines.load(name)
    try:
        pipelines.make(made, options, tokenizer=tokenizers.load("bytes"), what=place)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _check_projection(rules: Any) -> None:
    for rule in rules:
        place = "config.optimizer.project lists (path regex, (low, high))"
        try:
            pattern, (low, high) = rule
            re.compile(pattern)
            right = low <= high
        except (TypeError, ValueError, re.error) as error:
            raise ValueError(f"{place}, found {rule!r}: {error}") from error
        if not right:
            raise ValueError(f"{place}, found {rule!r}: {low!r} is above {high!r}")
