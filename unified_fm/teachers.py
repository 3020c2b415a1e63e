"""Frozen teachers: parameter trees that turn a batch into targets, on the device.

A teacher is a data transform. Its parameters are a separate argument of the step, never donated,
never in the optimizer, never in a checkpoint of the run; they lie on the mesh by the same sharding
rules. It runs without random numbers, so without dropout.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from unified_fm import checkpoint, plugins, sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """One frozen model.

    Attributes:
        model: has a method `targets(batch) -> {name: array}`, rows on axis 0.
        streams: names of the streams that it sees.
    """

    model: Any
    streams: Sequence[str]


def build(config: Mapping[str, Any]) -> dict[str, Teacher]:
    """Makes the teachers of a config, {name: {"model": {...}, "path": ..., "streams": [...]}}.

    Raises:
        ValueError, TypeError: an entry that lacks a key or names an unknown model.
    """
    teachers = {}
    for name, entry in config.items():
        for key in ("model", "path", "streams"):
            if key not in entry:
                raise ValueError(f"teachers.{name} has no {key!r}; found {', '.join(entry)}")
        options = dict(entry["model"])
        model = plugins.build("models", options.pop("name"), **options)
        if not hasattr(model, "targets"):
            raise ValueError(f"teachers.{name}: its model has no method 'targets'")
        teachers[name] = Teacher(model=model, streams=tuple(entry["streams"]))
    return teachers


def load_params(config: Mapping[str, Any], mesh: Any, rules: Any = None) -> dict[str, Any]:
    """Loads the teachers' parameters onto the mesh, {name: tree}.

    Raises:
        ValueError: no checkpoint at a path, or a damaged one.
    """
    params = {name: checkpoint.load_params(entry["path"]) for name, entry in config.items()}
    return {
        name: jax.device_put(tree, sharding.params_shardings(mesh, tree, rules))
        for name, tree in params.items()
    }


def make_transform(teachers: Mapping[str, Teacher]) -> Callable:
    """Makes `(teacher_params, batches) -> batches` with `batch["teacher"][name]` added."""

    def transform(teacher_params, batches):
        batches = dict(batches)
        for name, teacher in teachers.items():
            variables = {"params": teacher_params[name]}
            for stream in teacher.streams:
                batch = dict(batches[stream])
                targets = teacher.model.apply(variables, batch, method="targets")
                targets = jax.lax.stop_gradient(targets)
                batches[stream] = {**batch, "teacher": {**batch.get("teacher", {}), name: targets}}
        return batches

    return transform
