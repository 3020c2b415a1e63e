"""Training, validation and test of a set, by its official splits or by the hash of the ids."""

from typing import NamedTuple

import numpy as np

from unified_fm.data.sources import few
from unified_fm.probing.cache import Rows
from unified_fm.tasks.probe_sets import ProbeSet

_VALIDATION, _TEST = 10, 30  # hashes, of 0 to 99, below which a record is of that part


class Parts(NamedTuple):
    """The rows of the three parts."""

    train: Rows
    validation: Rows
    test: Rows

    @property
    def known(self) -> Rows:
        """Training and validation together."""
        return self.train.joined(self.validation)


def split(row: ProbeSet, sources: dict[str, Rows]) -> Parts:
    """Splits what was read.

    Args:
        row: the set, whose fields say by what.
        sources: rows of each of its source strings.

    Raises:
        ValueError: a part has no row, with what to do.
    """
    first = sources[row.train]
    rest = np.arange(len(first))
    if row.test:
        test = sources[row.test]
    else:
        chosen = _of_test(row, first)
        test, rest = first.take(rest[chosen]), rest[~chosen]
    if row.validation:
        train, validation = first.take(rest), sources[row.validation]
    else:
        own = np.array([_hash(first.ids[int(k)]) < _VALIDATION for k in rest], bool)
        train, validation = first.take(rest[~own]), first.take(rest[own])
    parts = Parts(train, validation, test)
    for name, rows in parts._asdict().items():
        if not len(rows):
            raise ValueError(
                f"{row.name}: of {len(first):,} records none is for {name} ({row.split}); name one"
                f" with --{'source' if name == 'train' else name}=SOURCE, or add pictures"
            )
    return parts


def _of_test(row: ProbeSet, rows: Rows) -> np.ndarray:
    """bool[N]: which rows are the test, where the set has none of its own."""
    if row.per_class is None:
        return np.array([_VALIDATION <= _hash(one) < _TEST for one in rows.ids], bool)
    order = sorted(range(len(rows)), key=lambda k: few.digest(rows.ids[k]))
    taken: dict[str, int] = {}
    test = np.ones(len(rows), bool)
    for k in order:
        taken[rows.labels[k]] = taken.get(rows.labels[k], 0) + 1
        test[k] = taken[rows.labels[k]] > row.per_class
    return test


def _hash(key: str) -> int:
    """0 to 99, the same for an id everywhere."""
    return int.from_bytes(few.digest(key)[:8], "big") % 100
