"""Records that cannot be used: the exception that says why, and the account that is kept of them.

Nothing is dropped in silence: every unusable record, and every part of one (a box, a caption), is
counted by reason, the first of each reason are named in the log, and a run that would lose more
than its share of records or of parts stops with the table.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_NAMED_PER_REASON = 5  # records named in the log one by one; after that only counts
MINIMUM = 1000  # records or parts below which a share is taken of this number
_LINE_EVERY = 10.0  # seconds between two lines about ended epochs, where epochs are short
# A mistake is guessed when it explains this share of all parts, and so many of the dropped ones.
EXPLAINED, ENOUGH = 0.95, 3


@dataclasses.dataclass
class Parts:
    """The parts of one record or of many: how many there were, and what was dropped.

    Attributes:
        seen: parts, usable or not.
        dropped: unusable ones by reason.
        tried: parts that were tested for a mistake in the config, and how many of them failed.
        fitting: of the tested ones, how many would fit, by the advice that says what to change.
        mended: the same, of those that failed.
        cut: texts that were longer than a row, of which the end is lost; nothing is unusable.
    """

    seen: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    tried: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    fitting: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    mended: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    cut: int = 0

    def drop(self, reason: str) -> None:
        """Counts one more part as unusable; `see` has counted it before."""
        self.dropped[reason] += 1

    def test(self, advices: list[str], *, failed: bool) -> None:
        """Notes which mistakes would explain a part that fits, or does not."""
        self.tried["all"] += 1
        self.tried["failed"] += failed
        self.fitting.update(advices)
        if failed:
            self.mended.update(advices)

    def add(self, other: "Parts") -> None:
        """Takes over what another one has counted."""
        self.seen += other.seen
        self.cut += other.cut
        for name in ("dropped", "tried", "fitting", "mended"):
            getattr(self, name).update(getattr(other, name))

    def advice(self) -> str:
        """The mistake that explains nearly all parts, those dropped too; "" if none does."""
        for advice, count in self.fitting.most_common(1):
            failed = self.tried["failed"]
            explained = min(count / self.tried["all"], self.mended[advice] / max(failed, 1))
            if failed >= ENOUGH and explained >= EXPLAINED:
                return advice
        return ""


class Skip(Exception):
    """A source or a pipeline raises it for a record that cannot be used.

    Args:
        reason: a short phrase that is the same for all such records ("truncated image"): the key
            of the table.
        detail: what was found in this record; only logged.
        parts: what became of its parts, where it has any.
    """

    def __init__(self, reason: str, detail: str = "", parts: Parts | None = None):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.parts = parts


class TooManySkips(RuntimeError):
    """More records were unusable than the stream's `max_skip` allows."""


class Skips:
    """Counts the unusable records of one stream; safe to call from the loader's threads.

    Args:
        name: the stream, for messages.
        max_skip: the largest fraction of unusable records, and of unusable parts; 0 stops at the
            first one (strict).
        minimum: records (parts) below which the fraction is taken of this number, so that one bad
            record among the first ten does not stop a run.
    """

    def __init__(self, name: str, *, max_skip: float = 0.01, minimum: int = MINIMUM):
        if not 0 <= max_skip <= 1:
            raise ValueError(f"stream {name!r}: max_skip is {max_skip}; it is a fraction, 0 to 1")
        self.name = name
        self.max_skip = max_skip
        self.minimum = minimum
        self.total = _Count()
        self.files: collections.Counter[str] = collections.Counter()  # files left out, by reason
        self.named: list[str] = []  # the records that the log names, with why
        self._epochs: dict[int, _Count] = {}
        self._ended: tuple[int, _Count] | None = None  # first ended epoch that has had no line
        self._last_line = -_LINE_EVERY
        self._advised = False
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Good records."""
        return self.total.used

    @property
    def skipped(self) -> int:
        """Unusable records."""
        return sum(self.total.reasons.values())

    @property
    def lossy(self) -> bool:
        """Whether anything at all was left out."""
        return bool(self.skipped or self.total.parts.dropped or self.files)

    def use(
        self, parts: Parts | None = None, *, record: Callable[[], str] = str, epoch: int = 0
    ) -> None:
        """Counts one good record and what became of its parts.

        Args:
            parts: of the record; those dropped count.
            record: names the record, its file and image; called only if there is something to say.
            epoch: in which it was met.

        Raises:
            TooManySkips: more than `max_skip` of the parts seen were unusable.
        """
        with self._lock:
            for count in self._counts(epoch):
                count.used += 1
        if parts is not None:
            self._add_parts(parts, record, epoch)

    def skip(self, skip: Skip, record: Callable[[], str], *, epoch: int = 0) -> None:
        """Counts one unusable record, and names it in the log; `record` and `epoch` as in `use`.

        Raises:
            TooManySkips: more than `max_skip` of the records seen were unusable.
        """
        with self._lock:
            for each in self._counts(epoch):
                each.reasons[skip.reason] += 1
                if skip.parts is not None:
                    each.parts.add(skip.parts)
            count = self.total.reasons[skip.reason]
            skipped, seen = self.skipped, self.skipped + self.used
        if count <= _NAMED_PER_REASON:
            last = " (further ones are only counted)" if count == _NAMED_PER_REASON else ""
            named = f"{record()}: {skip}"
            _log.warning("stream %r skips %s%s", self.name, named, last)
            with self._lock:
                self.named.append(named)
        self._advise()
        what, last = "records could not be used", lambda: f"; the last was {record()} ({skip})"
        self._check_share(skipped, seen, f"{skipped} of {seen} {what}", last)

    def renewed(self) -> "Skips":
        """A new account, of no record so far; files that were left out stay counted."""
        new = Skips(self.name, max_skip=self.max_skip, minimum=self.minimum)
        new.files.update(self.files)
        return new

    def leave_out(self, reason: str, file: str) -> None:
        """Counts and names a file that is left out.

        Raises:
            TooManySkips: `max_skip` is 0: a strict run stops at any loss.
        """
        self.files[reason] += 1
        if self.files[reason] <= _NAMED_PER_REASON:
            _log.warning("stream %r goes on without a file: %s: %s", self.name, reason, file)
        if self.max_skip == 0:
            raise TooManySkips(f"stream {self.name!r}: {reason}: {file}; max_skip=0 allows no loss")

    def check_lost(self, lost: int, records: int) -> None:
        """Refuses a source of which too many records lie in files that are left out: about `lost`.

        Raises:
            TooManySkips: `lost` is more than `max_skip` of both.
        """
        seen = lost + records
        what = f"about {lost:,} of {seen:,} records lie in files that cannot be read"
        self._check_share(lost, seen, what)

    def end_epoch(self, epoch: int) -> str | None:
        """What was lost in the epochs up to this one, for the log; None if a line was just made.

        What it leaves out comes with the next line.
        """
        with self._lock:
            first, count = self._ended or (epoch, _Count())
            for number in [number for number in self._epochs if number <= epoch]:
                count.add(self._epochs.pop(number))
            if time.monotonic() - self._last_line < _LINE_EVERY:
                self._ended = first, count
                return None
            self._ended, self._last_line = None, time.monotonic()
        name = f"epoch {first + 1}" if first == epoch else f"epochs {first + 1} to {epoch + 1}"
        return f"stream {self.name!r}, end of {name}: {count.line()}"

    def line(self) -> str:
        """All counts in one line: "990 used, 10 skipped (7 empty text, 3 no image)"."""
        with self._lock:
            files = f"; left out: {_listed(self.files)}" if self.files else ""
            return self.total.line() + files

    def table(self) -> str:
        """One line per reason, the largest first; says so when nothing was skipped."""
        with self._lock:
            lines = [f"{self.name}: {self.used} used, {self.skipped} skipped"]
            for mark, counts in (
                ("", self.total.reasons),
                ("(part) ", self.total.parts.dropped),
                ("(file) ", self.files),
            ):
                lines += [f"  {n:>8}  {mark}{reason}" for reason, n in counts.most_common()]
            if self.total.parts.cut:
                lines.append(f"  {self.total.parts.cut:>8}  (cut) texts longer than max_len")
            advice = self.total.parts.advice()
        return "\n".join([*lines, f"  {advice}"] if advice else lines)

    def _add_parts(self, parts: Parts, record: Callable[[], str], epoch: int) -> None:
        with self._lock:
            before = {reason: self.total.parts.dropped[reason] for reason in parts.dropped}
            for count in self._counts(epoch):
                count.parts.add(parts)
            dropped, seen = self.total.parts.dropped.total(), self.total.parts.seen
        if not parts.dropped:
            return
        for reason, count in before.items():
            if count < _NAMED_PER_REASON:
                _log.warning("stream %r drops a part of %s: %s", self.name, record(), reason)
        self._advise()
        what = f"{dropped} of {seen} parts (boxes, texts) of records could not be used"
        found = ", ".join(parts.dropped)
        self._check_share(dropped, seen, what, lambda: f"; the last was in {record()} ({found})")

    def _check_share(self, lost: int, seen: int, what: str, last: Callable[[], str] = str) -> None:
        """Raises if `max_skip` does not allow to lose so many of those seen."""
        if lost > self.max_skip * max(seen, self.minimum):
            raise TooManySkips(
                f"stream {self.name!r}: {what}, more than max_skip={self.max_skip:g} allows"
                f"{last()}.\n{self.table()}\n{_REPAIR}"
            )

    def _advise(self) -> None:
        """Says once what the config has probably got wrong."""
        with self._lock:
            advice = "" if self._advised else self.total.parts.advice()
            self._advised = self._advised or bool(advice)
        if advice:
            _log.warning("stream %r: many boxes do not fit: %s", self.name, advice)

    def _counts(self, epoch: int) -> tuple["_Count", "_Count"]:
        if epoch not in self._epochs:
            self._epochs[epoch] = _Count()
        return self.total, self._epochs[epoch]


_REPAIR = "Repair the data, or raise max_skip in this stream's config."


@dataclasses.dataclass
class _Count:
    """What became of some records."""

    used: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    parts: Parts = dataclasses.field(default_factory=Parts)

    def add(self, other: "_Count") -> None:
        self.used += other.used
        self.reasons.update(other.reasons)
        self.parts.add(other.parts)

    def line(self) -> str:
        skipped, dropped = self.reasons.total(), self.parts.dropped.total()
        line = f"{self.used:,} used, {skipped:,} skipped"
        line += f" ({_listed(self.reasons)})" if skipped else ""
        if dropped:
            line += f"; {dropped:,} of {self.parts.seen:,} parts dropped"
            line += f" ({_listed(self.parts.dropped)})"
        if self.parts.cut:
            line += f"; {self.parts.cut:,} texts cut at max_len"
        return line


def _listed(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
