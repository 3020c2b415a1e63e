"""Records that lie in several parts (files, shards, sources), numbered through."""

import bisect
import itertools
from collections.abc import Iterable


class Sections:
    """The numbers of the records of several parts, one part after the other."""

    def __init__(self, lengths: Iterable[int]):
        self._ends = list(itertools.accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """The part in which a record lies, and its number there."""
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
