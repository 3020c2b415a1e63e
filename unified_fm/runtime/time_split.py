"""Where the wall time of a run goes: steps, or what they wait for."""

import contextlib
import time
from collections.abc import Iterator

PARTS = ("step", "data", "checkpoint", "evaluation", "compilation", "start")


class TimeSplit:
    """Seconds of this training by what the loop was about; all of them, each counted once.

    Before `begin` it is "start" and afterwards "step", but for what is named: a part inside another
    is taken out of it. Time in which steps go on is theirs, whatever goes on beside them, so the
    share of "step" is the goodput.
    """

    def __init__(self):
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._about = ["start"]
        self._since = time.monotonic()

    def begin(self) -> None:
        """The first step follows."""
        self._count()
        self._about[0] = "step"

    @contextlib.contextmanager
    def on(self, part: str) -> Iterator[None]:
        """What is inside is about `part`, one of `PARTS`."""
        self._count()
        self._about.append(part)
        try:
            yield
        finally:
            self._count()
            self._about.pop()

    def shares(self) -> dict[str, float]:
        """{"time/PART": share of the time since this training began}."""
        self._count()
        total = sum(self._seconds.values()) or 1.0
        return {f"time/{part}": seconds / total for part, seconds in self._seconds.items()}

    def line(self) -> str:
        """The shares in words, without the smallest: "step 92% (goodput), data 3%, start 5%"."""
        told = [
            f"{name.removeprefix('time/')} {share:.0%}{' (goodput)' if name == 'time/step' else ''}"
            for name, share in self.shares().items()
            if share >= 0.005 or name == "time/step"
        ]
        return ", ".join(told)

    def _count(self) -> None:
        now = time.monotonic()
        self._seconds[self._about[-1]] += now - self._since
        self._since = now
