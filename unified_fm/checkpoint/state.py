"""The state that a run begins or goes on with: of step 0, or of its own latest checkpoint."""

import logging
from typing import Any

import jax

from unified_fm import step
from unified_fm.checkpoint import assets, start
from unified_fm.config.settings import Settings
from unified_fm.spikes import Spikes

_log = logging.getLogger(__name__)


def fresh_state(
    settings: Settings, program, tx, shardings, teacher_params, batches
) -> step.TrainState:
    """The state of step 0, from the seed or from another run's parameters."""
    init = jax.jit(lambda t, b: step.init_params(program, t, b), out_shardings=shardings.params)
    params = init(teacher_params, batches)
    if init_from := settings.plain()["init"]:
        start.warn_of_other_numbers(init_from, program.model.towers())
        params = start.start(params, init_from)
    seen = Spikes(**settings.spikes.plain())
    make = jax.jit(
        lambda params: step.init_state(params, tx, ema=settings.ema is not None, spikes=seen),
        out_shardings=shardings,
    )
    return make(params)


def restored_state(settings: Settings, checkpoints, target) -> tuple[step.TrainState, Any]:
    """The state and the streams' position of the latest checkpoint that can be read."""
    steps = checkpoints.steps()[::-1]
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
        _log.info("resumed from step %d", at)
        return state, position
    raise ValueError(f"no checkpoint in {checkpoints.directory}")
