"""From a config's names and numbers to the parts of a run. Nothing here touches a device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from unified_fm import sharding, step
from unified_fm import spikes as gradient_spikes
from unified_fm.config import chosen, saved
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.streams import Streams
from unified_fm.optim import build
from unified_fm.optim import telemetry as measurements
from unified_fm.optim.merge.base import Refresh
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import transform as teachers


def program(settings: Settings) -> step.Program:
    """Makes what is learnt from what: model, streams, groups, teachers.

    Raises:
        ValueError, TypeError: an unknown plugin or option.
    """
    streams = {}
    for name, entry in settings.streams.items():
        made = {key: chosen.objective(key, value) for key, value in entry.objectives.items()}
        streams[name] = step.Stream(
            objectives={key: objective for key, (objective, _) in made.items()},
            weights={key: weight for key, (_, weight) in made.items()},
            packs=entry.packs,
        )
    made = step.Program(
        model=chosen.model(settings.model),
        streams=streams,
        groups=settings.groups,
        seed=settings.seed,
        accumulate=settings.accumulate,
        teachers=teachers.make_transform(
            teachers.build(settings.teachers, saved.modules_of(settings.plain()))
        ),
    )
    if made.needs_ema and settings.ema is None:
        raise ValueError("an objective reads the average, so config.ema must be a decay like 0.999")
    return made


def tokenizer(settings: Settings) -> Any:
    """Loads the tokenizer.

    Raises:
        ValueError: it has ids that the model's word embedding lacks.
    """
    loaded = tokenizers.load(settings.tokenizer)
    words = settings.model.get("vocab_size")
    if words is not None and loaded.vocab_size > words:
        raise ValueError(
            f"the tokenizer {settings.tokenizer!r} has {loaded.vocab_size} ids, the model "
            f"model.vocab_size = {words}"
        )
    return loaded


def streams(settings: Settings, loaded: Any) -> Streams:
    """Opens the streams, and the caches of teachers that have one; `loaded` is the tokenizer."""
    return Streams(
        {name: stream.plain() for name, stream in settings.streams.items()},
        seed=settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tokenizer=loaded,
        extra=teacher_cache.readers(settings),
    )


def optimizer(
    settings: Settings, params: Any
) -> tuple[optax.GradientTransformationExtraArgs, Refresh | None]:
    """Makes the optax chain.

    Args:
        settings: of the run.
        params: the parameter tree, or its shapes.

    Returns:
        The chain, and the merge's `refresh(opt_state, step) -> opt_state` to be called before every
        step, or None.
    """
    merge = chosen.merge(settings)
    numbers = settings.optimizer.plain()
    project = numbers.pop("project") or ()
    chain = build.build(
        params,
        merge=merge,
        settings=build.Settings(**numbers),
        total_steps=settings.total_steps,
        rules=settings.rules.plain(),
        project=project,
    )
    return chain, merge.refresh


def spikes(settings: Settings) -> gradient_spikes.Spikes:
    """Makes what looks at the gradient norms."""
    return gradient_spikes.Spikes(**settings.spikes.plain())


def telemetry(settings: Settings) -> Callable | None:
    """Makes `(grads, opt_state) -> {name: f32[]}`, or None if nothing is to be measured."""
    options = settings.telemetry
    if not options.every:
        return None
    shared = options.shared or settings.merge.get("shared") or ".*"
    return functools.partial(measurements.measure, shared=shared, scope=options.scope)


def state_target(
    settings: Settings, mesh: Any, params: Any, tx: optax.GradientTransformation
) -> step.TrainState:
    """The train state as `jax.ShapeDtypeStruct` with shardings.

    Args:
        settings: of the run.
        mesh: of the run.
        params: shapes of the parameters.
        tx: the chain.
    """
    ema = settings.ema is not None
    seen = spikes(settings)
    shapes = jax.eval_shape(
        lambda params: step.init_state(params, tx, ema=ema, spikes=seen), params
    )
    where = sharding.params_shardings(mesh, params, settings.rules.sharding)
    shardings = step.TrainState(
        step=sharding.replicated(mesh),
        params=where,
        opt_state=sharding.like_params(mesh, shapes.opt_state, params, where),
        ema=where if ema else None,
        spikes=jax.tree.map(lambda _: sharding.replicated(mesh), shapes.spikes),
    )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
