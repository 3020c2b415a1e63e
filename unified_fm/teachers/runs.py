"""Teachers that a run trains first, each as a run of its own in WORKDIR/teachers/NAME.

    c.teachers = dict(bert=dict(config="teacher_bert:demo", streams=["text"]))

So one command goes from nothing to a distilled student. A teacher's run can be interrupted and goes
on like any other; one that is finished is not trained again.
"""

import logging
from collections.abc import Callable
from typing import Any

from unified_fm.checkpoint import assets
from unified_fm.checkpoint.store import Checkpoints
from unified_fm.config import durations
from unified_fm.config import saved as saved_config
from unified_fm.config.settings import Settings

_log = logging.getLogger(__name__)


def train(settings: Settings, workdir: Any, stop: Any, run: Callable[..., None]) -> Settings | None:
    """Trains the teachers that are missing, by `run` (`train.train`).

    Returns:
        The settings with the teachers' paths; None if a signal came.

    Raises:
        ValueError: a teacher that was trained with other settings.
    """
    teachers = dict(settings.teachers)
    for name, wanted in settings.own_runs().items():
        folder = workdir / "teachers" / name
        teachers[name] = teachers[name].replace(path=str(folder))
        if teachers[name].cache or _finished(name, folder, wanted):
            continue
        if settings.mode == "evaluate":
            raise ValueError(f"teachers.{name} is not trained: there is nothing to evaluate with")
        _log.info("teacher %r is trained first, in %s", name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        run(wanted, folder, stop)
        if stop.signum is not None:
            return None
    return settings.replace(teachers=teachers)


def of(place: Any) -> dict[str, str]:
    """{name: where it is} of the teachers of a run: runs, checkpoints or FAMILY:PATH.

    A run that was moved has those that it trained itself below its own folder. What they said that
    is kept without them (`cache`) is no teacher.

    Args:
        place: a workdir, or a checkpoint in it; of anything else there are none.
    """
    workdir = saved_config.workdir_of(place)
    found = {}
    if workdir is None:
        return found
    for name, entry in saved_config.teachers(workdir).items():
        own, init = workdir / "teachers" / name, entry.get("init")
        named = init.get("path") if isinstance(init, dict) else init
        known = str(own) if (own / "checkpoints").exists() else entry.get("path") or named
        if known:
            found[name] = known
    return found


def _finished(name: str, folder: Any, wanted: Settings) -> bool:
    if not (folder / "checkpoints").exists():
        return False
    saved = Checkpoints(folder / "checkpoints", read_only=True)
    latest = saved.latest()
    if latest is None:
        return False
    counts = saved.saved_position(latest)["streams"] if durations.streams(wanted) else {}
    if latest < durations.resolve(wanted, counts).total:
        return False
    changes = assets.changes(folder, saved.saved_config(latest), wanted)
    if changes:
        raise ValueError(
            "\n  ".join([f"teachers.{name}: {folder} was trained with other settings:", *changes])
        )
    return True
