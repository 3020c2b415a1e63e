"""The state that a run goes on with: of its own latest checkpoint that can be read."""

import logging
from typing import Any

from unified_fm import step
from unified_fm.checkpoint import assets
from unified_fm.checkpoint.store import Checkpoints
from unified_fm.config.settings import Settings

_log = logging.getLogger(__name__)


def restored_state(
    settings: Settings, checkpoints: Checkpoints, target: step.TrainState, at: int | None = None
) -> tuple[step.TrainState, Any]:
    """The state and the streams' position of the latest checkpoint that can be read, or of one."""
    steps = checkpoints.steps()[::-1] if at is None else [at]
    for number, at in enumerate(steps):
        try:
            saved = checkpoints.saved_config(at)
            changes = assets.changes(checkpoints.directory.parent, saved, settings)
            if changes and not settings.checkpoint.allow_changes:
                shown = "\n  ".join(changes)
                raise ValueError(
                    f"checkpoint {checkpoints.directory / str(at)} was saved with other settings:\n"
                    f"  {shown}\nTo go on nevertheless: --config.checkpoint.allow_changes=True"
                )
            state, position = checkpoints.restore(target, at)
        except ValueError as error:
            if not settings.checkpoint.allow_fallback or number + 1 == len(steps):
                raise
            _log.error("%s\nGoing back to step %d", error, steps[number + 1])
            continue
        said = "evaluating" if settings.mode == "evaluate" else "resumed from"
        _log.info("%s step %d", said, at)
        return state, position
    raise ValueError(f"no checkpoint in {checkpoints.directory}")
