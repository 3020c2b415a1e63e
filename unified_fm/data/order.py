"""The order in which a stream visits its records, and the random numbers of each visit."""

import functools
import hashlib
import struct

import numpy as np

# Up to here an epoch's order is a table (64 MB at most), one look-up a record; beyond it Grain
# computes each place, which needs no memory and about 20 microseconds.
_TABLE = 2**24


def example_rng(seed: int, epoch: int, index: int, attempt: int = 0) -> np.random.Generator:
    """The random numbers of one example: hash(seed, epoch, index), the same everywhere."""
    digest = hashlib.blake2b(struct.pack("<4q", seed, epoch, index, attempt), digest_size=16)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))


class Order:
    """Endless epochs over `records` records, each in another order, or each in the source's.

    Slot s is place s mod records of epoch s div records.
    """

    def __init__(self, records: int, *, seed: int, shuffle: bool):
        self.records = records
        self._seed = seed
        self._shuffle = shuffle
        self._table = functools.lru_cache(maxsize=2)(self._epoch_table)

    def epoch(self, slot: int) -> int:
        """The epoch that a slot belongs to."""
        return slot // self.records

    def index(self, slot: int) -> int:
        """The record in a slot."""
        epoch, place = divmod(slot, self.records)
        if not self._shuffle:
            return place
        if self.records <= _TABLE:
            return int(self._table(epoch)[place])
        import grain  # only where it is asked for

        return grain.experimental.index_shuffle(
            place, max_index=self.records - 1, seed=(self._seed + epoch) % 2**32, rounds=4
        )

    def _epoch_table(self, epoch: int) -> np.ndarray:
        rng = example_rng(self._seed, epoch, -1)
        return rng.permutation(np.arange(self.records, dtype=np.int32))
