"""Records that cannot be used: the exception that says why, and the account that is kept of them.

Nothing is dropped in silence: every unusable record is counted by reason, the first of each reason
are named in the log, and a run that would lose more than its share stops with the table.
"""

import logging
import threading

_NAMED_PER_REASON = 5  # records named in the log one by one; after that only counts


class Skip(Exception):
    """A source or a pipeline raises it for a record that cannot be used.

    Args:
        reason: a short phrase that is the same for all such records ("truncated image"): the key
            of the table.
        detail: what was found in this record; only logged.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class TooManySkips(RuntimeError):
    """More records were unusable than the stream's `max_skip` allows."""


class Skips:
    """Counts the unusable records of one stream; safe to call from the loader's threads.

    Args:
        name: the stream, for messages.
        max_skip: the largest fraction of unusable records; 0 stops at the first one (strict).
        minimum: records below which the fraction is taken of this number, so that one bad record
            among the first ten does not stop a run.
    """

    def __init__(self, name: str, *, max_skip: float = 0.01, minimum: int = 1000):
        if not 0 <= max_skip <= 1:
            raise ValueError(f"stream {name!r}: max_skip is {max_skip}; it is a fraction, 0 to 1")
        self.name = name
        self.max_skip = max_skip
        self.minimum = minimum
        self.used = 0
        self.reasons: dict[str, int] = {}  # whole records
        self.notes: dict[str, int] = {}  # parts of records, and unreadable files
        self._lock = threading.Lock()

    @property
    def skipped(self) -> int:
        return sum(self.reasons.values())

    def use(self) -> None:
        """Counts one good record."""
        with self._lock:
            self.used += 1

    def skip(self, skip: Skip, record: str) -> None:
        """Counts one unusable record, and names it in the log.

        Raises:
            TooManySkips: more than `max_skip` of the records seen were unusable.
        """
        with self._lock:
            count = self.reasons[skip.reason] = self.reasons.get(skip.reason, 0) + 1
            skipped, seen = self.skipped, self.skipped + self.used
        if count <= _NAMED_PER_REASON:
            last = " (further ones are only counted)" if count == _NAMED_PER_REASON else ""
            logging.warning("stream %r skips %s: %s%s", self.name, record, skip, last)
        if skipped > self.max_skip * max(seen, self.minimum):
            raise TooManySkips(
                f"stream {self.name!r}: {skipped} of {seen} records could not be used, more than"
                f" max_skip={self.max_skip:g} allows; the last was {record} ({skip}).\n"
                f"{self.table()}\nRepair the data, or raise max_skip in this stream's config."
            )

    def note(self, reason: str, count: int = 1, *, record: str = "") -> None:
        """Counts something dropped that is not a record: a bad box, an unreadable shard.

        Raises:
            TooManySkips: `max_skip` is 0: a strict run stops at any loss.
        """
        with self._lock:
            before = self.notes.get(reason, 0)
            self.notes[reason] = before + count
        if before < _NAMED_PER_REASON:
            logging.warning("stream %r: %s: %s", self.name, record or "a record", reason)
        if self.max_skip == 0:
            raise TooManySkips(
                f"stream {self.name!r}: {record or 'a record'}: {reason}; max_skip=0 allows no loss"
            )

    def table(self) -> str:
        """One line per reason, the largest first; says so when nothing was skipped."""
        rows = [*self.reasons.items()]
        notes = [(f"(part) {reason}", count) for reason, count in self.notes.items()]
        head = f"{self.name}: {self.used} used, {self.skipped} skipped"
        lines = [
            f"  {count:>8}  {reason}"
            for reason, count in sorted(rows, key=lambda row: -row[1])
            + sorted(notes, key=lambda row: -row[1])
        ]
        return "\n".join([head, *lines])
