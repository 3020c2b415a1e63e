"""What the arms of a scoreboard start from: their models' sizes, and the teachers of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epath

from unified_fm.checkpoint import start
from unified_fm.config import file as config_file
from unified_fm.config import of_run, python
from unified_fm.scoreboard import fit, tasks
from unified_fm.scoreboard.board import Task
from unified_fm.teachers import runs

_SIZES = {"size": "image_size", "patch_size": "patch_size"}  # of a stream: of a model


def ready(name: str, task: Task, init: str, say: Callable[[str], Any]) -> Task:
    """The task, for a board that starts from `init`: from scratch it is that model, too.

    If `init` is a run that was distilled, the first of its teachers that can be fine-tuned for the
    task is an arm of its own.

    Args:
        name: of the task, for messages.
        task: as it is listed.
        init: a run, a checkpoint or FAMILY:PATH.
        say: is told why no teacher has an arm, where the run had some.

    Raises:
        ValueError: the model of `init` cannot be trained for the task.
    """
    try:
        task = dataclasses.replace(task, changes=(*task.changes, *_sizes(task, init)))
        cell = task.cell("pre-trained", task.labels[0], 0, init)
        settings = config_file.load(task.config, fit.changes(cell))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} from --init={init}: {error}") from error
    task = tasks.like(task, init, settings.tokenizer)
    reasons = []
    teachers = {} if start.is_foreign(init) else runs.of(epath.Path(init))
    for teacher, place in teachers.items():
        try:
            return _taught(task, place)
        except (ValueError, TypeError, OSError) as error:
            reasons.append(f"{name}: no arm for the teacher {teacher!r} of {init}: {error}")
    for reason in reasons:
        say(reason)
    return task


def _taught(task: Task, place: str) -> Task:
    """With the teacher's arm. Raises: it is not there, or cannot be trained for the task."""
    fit.checkpoint_hash(place)
    task = dataclasses.replace(task, teacher=place, of_teacher=_sizes(task, place))
    config_file.load(task.config, fit.changes(task.cell("teacher", task.labels[0], 0, "")))
    return task


def _sizes(task: Task, init: str) -> tuple[str, ...]:
    """Changes by which pictures of the demo have the size that the model of `init` reads.

    Published recipes set the size of the model instead, which changes its positions.
    """
    if not task.parts or "size" not in python.read(task.config)["streams"]["task"]:
        return ()
    model = of_run.filled({"model": {"of": init}}, ())["model"]
    return tuple(
        f"streams.task.{name}={model[key]}" for name, key in _SIZES.items() if key in model
    )
