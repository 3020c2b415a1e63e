"""From a config's names and numbers to the parts of a run. Nothing here touches a device."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from unified_fm import plugins, sharding, step
from unified_fm import spikes as gradient_spikes
from unified_fm.config import saved, settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.streams import Streams
from unified_fm.optim import build
from unified_fm.optim import telemetry as measurements
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import transform as teachers


def program(config: Mapping[str, Any]) -> step.Program:
    """Makes what is learnt from what: model, streams, groups, teachers.

    Raises:
        ValueError, TypeError: an unknown plugin or option.
    """
    options = dict(config["model"])
    streams = {}
    for name, entry in config["streams"].items():
        made = {key: settings.objective(key, value) for key, value in entry["objectives"].items()}
        streams[name] = step.Stream(
            objectives={key: objective for key, (objective, _) in made.items()},
            weights={key: weight for key, (_, weight) in made.items()},
            packs=entry.get("packs"),
        )
    made = step.Program(
        model=plugins.build("models", options.pop("name"), **options),
        streams=streams,
        groups=settings.groups(config),
        seed=config["seed"],
        accumulate=config["accumulate"],
        teachers=teachers.make_transform(
            teachers.build(config["teachers"], saved.modules_of(config))
        ),
    )
    if made.needs_ema and config["ema"] is None:
        raise ValueError("an objective has target='ema', so config.ema must be a decay like 0.999")
    return made


def tokenizer(config: Mapping[str, Any]) -> Any:
    """Loads the tokenizer.

    Raises:
        ValueError: it has ids that the model's word embedding lacks.
    """
    loaded = tokenizers.load(config["tokenizer"])
    words = config["model"].get("vocab_size")
    if words is not None and loaded.vocab_size > words:
        raise ValueError(
            f"the tokenizer {config['tokenizer']!r} has {loaded.vocab_size} ids, the model "
            f"model.vocab_size = {words}"
        )
    return loaded


def streams(config: Mapping[str, Any], loaded: Any) -> Streams:
    """Opens the streams, and the caches of teachers that have one; `loaded` is the tokenizer."""
    return Streams(
        config["streams"],
        seed=config["seed"],
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        tokenizer=loaded,
        extra=teacher_cache.readers(config),
    )


def evaluators(config: Mapping[str, Any], loaded: Any) -> dict[str, Any]:
    """Makes the evaluators; those with a field `tokenizer` get the run's."""
    made = {}
    for key, entry in config["evaluate"]["evaluators"].items():
        options = dict(entry)
        plugin = plugins.load("evaluators", options.pop("name", key))
        if dataclasses.is_dataclass(plugin) and "tokenizer" in plugin.__dataclass_fields__:
            options.setdefault("tokenizer", loaded)
        made[key] = plugin(**options)
    return made


def optimizer(
    config: Mapping[str, Any], params: Any
) -> tuple[optax.GradientTransformationExtraArgs, Callable | None]:
    """Makes the optax chain.

    Args:
        config: of the run.
        params: the parameter tree, or its shapes.

    Returns:
        The chain, and the merge's `refresh(opt_state, step) -> opt_state` to be called before every
        step, or None.
    """
    merge = settings.merge(config)
    numbers = dict(config["optimizer"])
    project = numbers.pop("project") or ()
    chain = build.build(
        params,
        merge=merge,
        settings=build.Settings(**numbers),
        total_steps=config["total_steps"],
        rules=config["rules"],
        project=project,
    )
    return chain, getattr(merge, "refresh", None)


def spikes(config: Mapping[str, Any]) -> gradient_spikes.Spikes:
    """Makes what looks at the gradient norms."""
    return gradient_spikes.Spikes(**config["spikes"])


def telemetry(config: Mapping[str, Any]) -> Callable | None:
    """Makes `(grads, opt_state) -> {name: f32[]}`, or None if nothing is to be measured."""
    options = config["telemetry"]
    if not options["every"]:
        return None
    shared = options["shared"] or config["merge"].get("shared") or ".*"
    return functools.partial(measurements.measure, shared=shared, scope=options["scope"])


def state_target(
    config: Mapping[str, Any], mesh: Any, params: Any, tx: optax.GradientTransformation
) -> step.TrainState:
    """The train state as `jax.ShapeDtypeStruct` with shardings.

    Args:
        config: of the run.
        mesh: of the run.
        params: shapes of the parameters.
        tx: the chain.
    """
    ema = config["ema"] is not None
    seen = spikes(config)
    shapes = jax.eval_shape(
        lambda params: step.init_state(params, tx, ema=ema, spikes=seen), params
    )
    where = sharding.params_shardings(mesh, params, config["rules"]["sharding"])
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
