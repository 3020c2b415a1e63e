"""The order in which a stream visits its records, and the random numbers of each visit."""

import functools
import hashlib
import struct
import threading
from typing import Any

import numpy as np

# Up to here an epoch's order is a table (64 MB at most), one look-up a record; beyond it Grain
# computes each place, which needs no memory and about 20 microseconds.
_TABLE = 2**24


def example_rng(seed: int, epoch: int, index: int, attempt: int = 0) -> np.random.Generator:
    """The random numbers of one example: hash(seed, epoch, index), the same everywhere."""
    digest = _digest(seed, epoch, index, attempt)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class ExampleRng(threading.local):
    """Gives what `example_rng` gives, from one generator for each thread, in a tenth of its time.

    What is returned is good until the next call in the same thread.
    """

    def __init__(self):
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state: dict[str, Any] = dict(self._bits.state)  # as made: nothing drawn yet

    def __call__(self, seed: int, epoch: int, index: int, attempt: int = 0) -> np.random.Generator:
        """As `example_rng`."""
        key = np.frombuffer(_digest(seed, epoch, index, attempt), "<u8")
        self._state["state"] = {**self._state["state"], "key": key}
        self._bits.state = self._state
        return self._generator


def _digest(*numbers: int) -> bytes:
    return hashlib.blake2b(struct.pack("<4q", *numbers), digest_size=16).digest()


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
