"""Teachers that a run trains first, each as a run of its own in WORKDIR/teachers/NAME.

    c.teachers = dict(bert=dict(config="configs/teacher_bert.py:demo", streams=["text"]))

So one command goes from nothing to a distilled student. A teacher's run can be interrupted and goes
on like any other; one that is finished is not trained again.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from unified_fm.checkpoint.store import Checkpoints
from unified_fm.config import file as config_file
from unified_fm.config import settings

_log = logging.getLogger(__name__)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Puts complete settings in place of the names of teachers' config files.

    Args:
        config: of the run.

    Raises:
        ValueError: a file that cannot be read, or a key in it that does not exist.
    """
    teachers = {}
    for name, entry in config["teachers"].items():
        own = entry.get("config")
        if own:
            try:
                own = config_file.load(own) if isinstance(own, str) else own
                entry = {**entry, "config": settings.complete(own)}
            except (ValueError, TypeError) as error:
                raise ValueError(f"teachers.{name}.config: {error}") from error
        teachers[name] = entry
    return {**config, "teachers": teachers}


def configs(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """{teacher: its settings} of those teachers that this run trains."""
    teachers = config["teachers"].items()
    return {name: entry["config"] for name, entry in teachers if entry.get("config")}


def train(
    config: Mapping[str, Any], workdir: Any, stop: Any, run: Callable[..., None]
) -> dict[str, Any] | None:
    """Trains the teachers that are missing.

    Args:
        config: of the run.
        workdir: of the run, an `epath.Path`.
        stop: an entered `Interruption`.
        run: `train.train`.

    Returns:
        The config with the teachers' paths; None if a signal came.

    Raises:
        ValueError: a teacher that was trained with other settings.
    """
    teachers = dict(config["teachers"])
    for name, wanted in configs(config).items():
        folder = workdir / "teachers" / name
        teachers[name] = {**teachers[name], "path": str(folder)}
        if teachers[name].get("cache") or _finished(name, folder, wanted):
            continue
        if config["mode"] == "evaluate":
            raise ValueError(f"teachers.{name} is not trained: there is nothing to evaluate with")
        _log.info("teacher %r is trained first, in %s", name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        run(wanted, folder, stop)
        if stop.signum is not None:
            return None
    return {**config, "teachers": teachers}


def _finished(name: str, folder: Any, wanted: Mapping[str, Any]) -> bool:
    if not (folder / "checkpoints").exists():
        return False
    saved = Checkpoints(folder / "checkpoints", read_only=True)
    latest = saved.latest()
    if latest is None or latest < wanted["total_steps"]:
        return False
    changes = settings.data_changes(saved.saved_config(latest), wanted)
    if changes:
        raise ValueError(
            "\n  ".join([f"teachers.{name}: {folder} was trained with other settings:", *changes])
        )
    return True
