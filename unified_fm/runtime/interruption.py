"""SIGTERM and Ctrl-C: save and exit; the second one exits at once.

A flag that is read between two steps is not enough: preemption also comes while the step compiles,
while an evaluation runs or while the loop waits for data. In those phases, which change no state,
the handler raises.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """A signal came in a phase that could be left."""


class Interruption:
    """Listens to SIGTERM and SIGINT while it is entered.

    Attributes:
        signum: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._can_raise = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        # With several processes JAX itself listens to SIGTERM, so that all stop at the same step.
        signals = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        for signum in signals:
            self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()

    @property
    def exit_code(self) -> int:
        """The exit code of the process: 128 + signal, or 0."""
        return 0 if self.signum is None else 128 + self.signum

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on all processes."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signum = self.signum or signal.SIGTERM
        return self.signum is not None

    @contextlib.contextmanager
    def leavable(self) -> Iterator[None]:
        """A phase that changes no state of the run: a signal leaves it with `Interrupted`."""
        if self.signum is not None and jax.process_count() == 1:
            raise Interrupted
        self._can_raise = True
        try:
            yield
        finally:
            self._can_raise = False

    def _handle(self, signum, frame):
        del frame
        name = signal.Signals(signum).name
        if self.signum is not None:
            print(f"\n{name} again: exiting at once", file=sys.stderr, flush=True)
            os._exit(128 + signum)
        self.signum = signum
        print(f"\n{name}: saving, then exiting (again: at once)", file=sys.stderr, flush=True)
        if self._can_raise and jax.process_count() == 1:
            self._can_raise = False
            raise Interrupted
