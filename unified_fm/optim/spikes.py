"""Spikes of the gradient norm: seen against a running window, counted, and perhaps skipped.

The window lives in the train state and is moved inside the step, so that a resumed run sees what an
undisturbed one would have seen. It holds logarithms: norms vary by factors.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

POLICIES = ("clip", "skip")
# Norms that hardly vary make the smallest rise a spike: a sigma counts for at least so much.
_LEAST_SIGMA = 0.1


@flax.struct.dataclass
class State:
    """What was seen so far.

    Attributes:
        window: f32[W], logarithms of the latest norms, in a ring.
        seen: i32[], norms seen in all.
        found: i32[], spikes among them.
    """

    window: jax.Array
    seen: jax.Array
    found: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spikes:
    """What counts as a spike, and what is done about it.

    Attributes:
        policy: "clip": the step is made as always, with the clipping of the optimizer; "skip": a
            step with a spike changes nothing.
        sigma: a norm that lies so many standard deviations above the mean of the window is a
            spike. Both are those of logarithms.
        window: norms in the window. Nothing is a spike before it is full; 0: nothing ever is.
    """

    policy: str = "clip"
    sigma: float = 6.0
    window: int = 100

    def __post_init__(self) -> None:
        """Raises ValueError: an unknown policy, or a number out of range."""
        if self.policy not in POLICIES:
            raise ValueError(f"spikes.policy is 'clip' or 'skip', found {self.policy!r}")
        number = isinstance(self.sigma, int | float) and not isinstance(self.sigma, bool)
        if not number or not self.sigma > 0:
            raise ValueError(f"spikes.sigma must be a number above 0, found {self.sigma!r}")
        whole = isinstance(self.window, int) and not isinstance(self.window, bool)
        if not whole or self.window < 0 or self.window == 1:
            raise ValueError(
                f"spikes.window must be an integer of at least 2, or 0 (off), found {self.window!r}"
            )

    def init(self) -> State | None:
        """The state before the first step; None if nothing is to be seen."""
        if not self.window:
            return None
        zero = jnp.zeros((), jnp.int32)
        return State(window=jnp.zeros(self.window, jnp.float32), seen=zero, found=zero)

    def look(self, state: State, norm: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        """Looks at the norm of a step, which must be finite.

        A spike enters the window as if it had just been none: it does not hide the next one, and a
        level that has risen for good is soon the usual one.

        Returns:
            The state after it; bool[], whether it is a spike; f32[], how many sigma above the mean
            the norm lies.
        """
        value = jnp.log(jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
        mean = state.window.mean()
        sigma = jnp.maximum(state.window.std(), _LEAST_SIGMA)
        full = state.seen >= self.window
        above = jnp.where(full, (value - mean) / sigma, 0.0)
        spike = above > self.sigma
        kept = jnp.where(
            full, jnp.clip(value, mean - self.sigma * sigma, mean + self.sigma * sigma), value
        )
        state = State(
            window=state.window.at[state.seen % self.window].set(kept),
            seen=state.seen + 1,
            found=state.found + spike,
        )
        return state, spike, above
