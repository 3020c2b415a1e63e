"""The watchdog: a run that makes no progress says where it is, saves if it can, and ends.

A host that waits for ever in a collective or for a dead file system costs the whole pod until
somebody looks. What is not counted is compilation, which may take as long as it likes.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from unified_fm.runtime.interruption import Interruption

_log = logging.getLogger(__name__)


def check(minutes: float) -> None:
    """Refuses what is no time.

    Raises:
        ValueError: `minutes` is negative or no number.
    """
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes >= 0:
        raise ValueError(f"watchdog.minutes must be a number, 0 (off) or more, found {minutes!r}")


class Watchdog:
    """Ends the process, with exit code 1, when it is not told of progress for some minutes."""

    def __init__(self, stop: Interruption, *, minutes: float = 15):
        """Prepares; `with` starts it.

        Args:
            stop: the run's; it knows how to save and how to end from another thread.
            minutes: without progress; 0: never.

        Raises:
            ValueError: see `check`.
        """
        check(minutes)
        self._stop = stop
        self._seconds = 60.0 * minutes
        self._doing = "starting"
        self._since = time.monotonic()
        self._held = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._since = time.monotonic()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def progress(self, doing: str | None = None) -> None:
        """Says that the run got on, and what it does now if that is something else."""
        self._doing, self._since = doing or self._doing, time.monotonic()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Time that is not counted: compilation."""
        self._held += 1
        try:
            yield
        finally:
            self._since = time.monotonic()
            self._held -= 1

    def stalled(self) -> bool:
        """Whether it is time to give up."""
        return not self._held and time.monotonic() - self._since > self._seconds

    def _watch(self):
        while not self._ended.wait(min(5.0, self._seconds / 10)):
            if self.stalled():
                minutes = self._seconds / 60
                self._stop.stalled(f"no progress for {minutes:g} minutes while {self._doing}")
