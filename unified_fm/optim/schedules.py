"""Learning-rate schedules: a factor of the peak rate, from 0 to 1, for every update.

The factor counts *applied* updates: a step that was refused for a non-finite loss leaves it alone.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from unified_fm import choices

_DECAYS: dict[str, Callable] = {  # of the progress from 0 to 1
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
    "constant": jnp.ones_like,
}


def build(
    *,
    name: str,
    total_steps: int,
    warmup: int = 0,
    end: float = 0.0,
) -> optax.Schedule:
    """Makes the schedule `name`.

    Args:
        name: "linear" (to `end`), "cosine" (to `end`) or "constant", each after a linear warm-up.
        total_steps: the update at which the factor reaches `end`.
        warmup: updates of the warm-up; the first one has factor 0, as in the published X-FM.
        end: the factor at the end, as a fraction of the peak.

    Raises:
        ValueError: an unknown name, or a warm-up that is longer than the run.
    """
    choices.check("the schedule", name, sorted(_DECAYS))
    if not 0 <= warmup <= total_steps:
        raise ValueError(f"a warm-up of {warmup} updates does not fit into {total_steps}")
    decay = _DECAYS[name]

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((count - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        rising = count / max(1, warmup)
        return jnp.where(count < warmup, rising, end + (1.0 - end) * decay(progress))

    return schedule
