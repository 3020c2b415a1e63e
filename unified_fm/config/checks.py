"""What settings must be beside each by itself: plugins exist, and parts fit each other.

All that cannot work is refused before any device is touched.
"""

import math
from collections.abc import Mapping
from typing import Any

from unified_fm import choices, sharding
from unified_fm.checkpoint import start
from unified_fm.config import chosen, durations, inputs, options, xla
from unified_fm.config.settings import Settings, Stream
from unified_fm.data import mixture, origins, source
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.pipelines import base as pipelines
from unified_fm.evaluators.base import Evaluator, HeldOut
from unified_fm.optim import build, schedules


def check(settings: Settings, *, mesh: bool = True) -> None:
    """Refuses settings that cannot work.

    Args:
        settings: of a run.
        mesh: whether its mesh must divide the batches.

    Raises:
        ValueError, TypeError: what was wrong, what was found, what is possible.
    """
    options.check(options.tree(), settings.plain(), "config")
    xla.check(settings.xla)
    for module in settings.plugins:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"plugins names modules like my_project or a.b, found {module!r}")
    if not settings.streams:
        raise ValueError("config.streams is empty: a run needs at least one stream")
    for name, stream in settings.streams.items():
        _check_objectives(settings, name, stream)
        _check_sizes(settings, name, stream, mesh)
        _check_mixture(settings, name, stream)
    if settings.evaluate.params == "ema" and settings.ema is None:
        raise ValueError(
            "config.evaluate.params is 'ema', so config.ema must be a decay like 0.999"
        )
    _check_groups(settings)
    chosen.merge(settings, None)
    _check_model(settings.model, "model")
    inputs.check(settings)
    start.check(settings.plain()["init"], "init")
    _check_teachers(settings)
    _check_lessons(settings)
    _check_best(settings, _checked_evaluators(settings))
    for kind, rules in settings.rules.plain().items():
        (sharding.named_rules(rules) if kind == "sharding" else build.named_rules(kind, rules))
    if not durations.streams(settings):
        resolved(settings, {})
    if settings.prepare and settings.prepare.partition(":")[0] != "demo":
        raise ValueError(f"prepare is 'demo' or 'demo:PART,PART', found {settings.prepare!r}")


def resolved(settings: Settings, counts: durations.Counts) -> durations.Steps:
    """The durations in steps, if they fit each other; see `durations.resolve`.

    Raises:
        ValueError: as there, and what schedule, merge and `checkpoint.best` say of them.
    """
    steps = durations.resolve(settings, counts)
    schedule: dict[str, Any] = settings.optimizer.schedule.plain()
    schedule["warmup"] = steps.warmup
    schedules.build(total_steps=steps.total, **schedule)
    for name in durations.staged(settings):
        _check_weights(settings, name, durations.weights(settings, name, counts, steps.total))
    chosen.merge(settings, steps.total)
    chosen.schedules_of_weights(settings, counts, lambda: steps.total)
    every, saved = steps.evaluate_every, steps.checkpoint_every
    if settings.checkpoint.best is not None and every and every % saved and saved % every:
        raise ValueError(
            f"config.checkpoint.best is {settings.checkpoint.best!r}, but a step may be best and "
            f"not saved: evaluate.every = {every} must be a multiple or a divisor of "
            f"checkpoint.every = {saved}"
        )
    return steps


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


def _check_objectives(settings: Settings, name: str, stream: Stream) -> None:
    if not stream.objectives:
        raise ValueError(f"stream {name!r} has no objectives: nothing would be learnt from it")
    for key, value in stream.objectives.items():
        place = f"config.streams.{name}.objectives"
        made, weight = chosen.objective(key, value, place=place)
        place = f"{place}.{key}"
        if not math.isfinite(weight):
            raise ValueError(f"{place} has the weight {weight!r}")
        if made.ema_reads and settings.ema is None:
            raise ValueError(
                f"{place} reads the averaged parameters, so config.ema must be a decay like 0.999"
            )


def _check_sizes(settings: Settings, name: str, stream: Stream, mesh: bool) -> None:
    """The batch of a stream must be split over the mesh, if asked, and into micro-batches."""
    packed, accumulate = pipelines.load(stream.pipeline).packed, settings.accumulate
    place = f"config.streams.{name}"
    if packed and stream.images is None:
        raise ValueError(f"{place} packs several rows per image, so it lacks images=... of a batch")
    groups = stream.groups or 1
    if packed and groups % accumulate:
        raise ValueError(
            f"{place}.groups = {groups} cannot be cut into accumulate = {accumulate} micro-batches"
        )
    parts = accumulate
    if mesh:
        parts *= max(1, settings.mesh.data) * max(1, settings.mesh.fsdp)  # -1 may be any
    sizes = {"batch_size": stream.batch_size, "images": stream.images if packed else None}
    for key, size in sizes.items():
        if size is not None and size % parts:
            raise ValueError(
                f"{place}.{key} = {size} cannot be split into {parts} equal parts: "
                f"mesh.data = {settings.mesh.data}, mesh.fsdp = {settings.mesh.fsdp}, "
                f"accumulate = {accumulate}"
            )
        if size is not None and size % groups:
            raise ValueError(f"{place}.{key} = {size} cannot be split into {groups} groups")
    check_pipeline(stream.pipeline, stream.options, place)


def _check_mixture(settings: Settings, name: str, stream: Stream) -> None:
    """The weights must fit the sources, and a record that is repeated must be known as such."""
    place, why = f"config.streams.{name}", "is a mixture"
    if stream.weights is None:
        shared = origins.shared([p for parts in source.entries(stream.source) for p in parts])
        if shared is None:
            return
        why = f"reads {shared[0]!r} and {shared[1]!r}, which may share records"
    elif name not in durations.staged(settings):  # those are looked at when their steps are known
        _check_weights(settings, name, stream.weights)
    for key, value in stream.objectives.items():
        if chosen.objective(key, value)[0].same == "row":
            raise ValueError(
                f"{place} {why}: a batch may hold a record twice, and its objective {key!r} takes"
                " every other row for a wrong pair; possible: 'ids' (rows of one record) or"
                " 'texts' (rows of one text) as its `targets` (itc) or `exclude` (itm)"
            )


def _check_weights(settings: Settings, name: str, weights: Any) -> None:
    stream = settings.streams[name]
    sources = len(source.entries(stream.source))
    mixture.read(weights, sources, f"config.streams.{name}.weights", cycle=stream.cycle)


def _check_groups(settings: Settings) -> None:
    streams = list(settings.streams)
    named = [stream for members in settings.groups.values() for stream in members]
    for stream in named:
        if stream not in streams:
            raise ValueError(
                f"gradient_groups names the stream {stream!r}; {choices.possible(stream, streams)}"
            )
    for stream in streams:
        if named.count(stream) != 1:
            raise ValueError(
                f"stream {stream!r} is in {named.count(stream)} gradient groups; each stream "
                "belongs to exactly one"
            )


def _check_model(options: Mapping[str, Any], place: str) -> None:
    """Makes the model, which touches no device, and lets it refuse its options."""
    model = chosen.model(options, place)
    try:
        model.check()
    except ValueError as error:
        raise ValueError(f"config.{place}: {error}") from error


def _check_teachers(settings: Settings) -> None:
    for name, teacher in settings.teachers.items():
        start.check(teacher.plain().get("init"), f"teachers.{name}.init")
        if teacher.model:
            _check_model(teacher.model, f"teachers.{name}.model")
        for stream in teacher.streams or ():
            if stream not in settings.streams:
                known = choices.possible(stream, settings.streams)
                raise ValueError(f"teachers.{name} names the stream {stream!r}; {known}")


def _check_lessons(settings: Settings) -> None:
    """A stream's objectives may learn from the teachers that see the stream, and from no other."""
    for name, stream in settings.streams.items():
        seeing = [t for t, teacher in settings.teachers.items() if name in (teacher.streams or ())]
        for key, value in stream.objectives.items():
            for teacher in chosen.objective(key, value)[0].lessons:
                if teacher not in seeing:
                    raise ValueError(
                        f"config.streams.{name}.objectives.{key} learns from {teacher!r}, but no "
                        f"teacher of this name sees the stream; {choices.possible(teacher, seeing)}"
                    )


def _checked_evaluators(settings: Settings) -> dict[str, Evaluator]:
    """Makes the evaluators, without the tokenizer that they are given later."""
    made = chosen.evaluators(settings)
    for name, evaluator in made.items():
        if isinstance(evaluator, HeldOut):
            place = f"config.evaluate.evaluators.{name}.options"
            check_pipeline(evaluator.pipeline, evaluator.pipeline_options, place)
        for teacher, entry in settings.teachers.items():
            if entry.cache is not None and {*evaluator.asks} & {*(entry.streams or ())}:
                raise ValueError(
                    f"config.evaluate.evaluators.{name} asks about the stream "
                    f"{', '.join(evaluator.asks)}, whose teacher {teacher!r} is a cache of what it "
                    f"said about the training data; possible with teachers.{teacher}.path"
                )
    return made


def _check_best(settings: Settings, evaluators: Mapping[str, Evaluator]) -> None:
    """Refuses a `checkpoint.best` that no evaluator measures, or none where it is asked for."""
    wanted, step = settings.checkpoint.best, settings.evaluate.step
    if isinstance(step, str):
        choices.check("config.evaluate.step", step, ("best",))
        if wanted is None:
            raise ValueError(
                "config.evaluate.step is 'best', so config.checkpoint.best must name a metric"
            )
    if wanted is None or settings.mode == "evaluate":  # its steps were measured before
        return
    if not settings.evaluates:
        raise ValueError(
            f"config.checkpoint.best is {wanted!r}, but nothing is evaluated: evaluate.every is 0 "
            "and evaluate.at_end false"
        )
    known = {}
    for name, evaluator in evaluators.items():
        names = evaluator.metric_names
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
            f"{choices.possible(wanted, metrics)}"
        )
