"""The order in which a stream visits its records, and the random numbers of each visit."""

import functools
import hashlib
import math
import struct
import threading
from typing import Any, NamedTuple

import numpy as np

# Up to here an epoch's order is a table (64 MB at most, of two epochs at a time), one look-up a
# record; beyond it each place is computed, which needs no memory and about 3 microseconds.
_TABLE = 2**24
_ROUNDS = 4  # of the permutation: epochs are then as unlike as drawn ones, see tests/data
_WORD = 2**64 - 1
COMPUTED = "feistel64"  # names the orders that are computed; those of a table have no name


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
        self._state: Any = dict(self._bits.state)  # as made: nothing drawn yet

    def __call__(self, seed: int, epoch: int, index: int, attempt: int = 0) -> np.random.Generator:
        """As `example_rng`."""
        key = np.frombuffer(_digest(seed, epoch, index, attempt), "<u8")
        self._state["state"] = {**self._state["state"], "key": key}
        self._bits.state = self._state
        return self._generator


def _digest(*numbers: int) -> bytes:
    return hashlib.blake2b(struct.pack("<4q", *numbers), digest_size=16).digest()


class Visit(NamedTuple):
    """What an order has in a slot.

    Attributes:
        epoch: of the record's source, from 0; with the record it is the seed of the augmentation.
        index: the record.
        among: records of which another one may stand in for it.
    """

    epoch: int
    index: int
    among: range


class Order:
    """Endless epochs over `records` records, each in another order, or each in the source's.

    Slot s is place s mod records of epoch s div records.
    """

    def __init__(self, records: int, *, seed: int, shuffle: bool, table: bool = True):
        """Nothing is made before a slot is asked for.

        Args:
            records: how many there are.
            seed: of the orders.
            shuffle: whether each epoch has an order of its own.
            table: whether orders of few records are tables; else all are computed.
        """
        self.records = records
        self._seed = seed
        self._shuffle = shuffle
        self._computed = not table or records > _TABLE
        self._table = functools.lru_cache(maxsize=2)(self._epoch_table)
        self._keys = functools.lru_cache(maxsize=2)(self._epoch_keys)
        self._sides = sides(records)

    @property
    def form(self) -> dict[str, Any]:
        """What a checkpoint keeps of how the order is made; {} for a table, or none at all."""
        return {"order": COMPUTED} if self._shuffle and self._computed else {}

    def epoch(self, slot: int) -> int:
        """The epoch that a slot belongs to."""
        return slot // self.records

    def index(self, slot: int) -> int:
        """The record in a slot."""
        epoch, place = divmod(slot, self.records)
        if not self._shuffle:
            return place
        if self._computed:
            return permuted(place, self.records, self._keys(epoch), self._sides)
        return int(self._table(epoch)[place])

    def visit(self, slot: int) -> Visit:
        """The record in a slot, its epoch, and what may stand in for it."""
        return Visit(self.epoch(slot), self.index(slot), range(self.records))

    def _epoch_table(self, epoch: int) -> np.ndarray:
        rng = example_rng(self._seed, epoch, -1)
        return rng.permutation(np.arange(self.records, dtype=np.int32))

    def _epoch_keys(self, epoch: int) -> tuple[int, ...]:
        return round_keys(self._seed, epoch)


def sides(records: int) -> tuple[int, int]:
    """Height and width of the smallest near-square that has a field for each record."""
    height = math.isqrt(max(records - 1, 0)) + 1
    return height, -(-records // height)


def round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    """The keys of one permutation, of 64 bits each."""
    digest = hashlib.blake2b(struct.pack("<2q", seed, epoch), person=b"order").digest()
    return struct.unpack(f"<{_ROUNDS}Q", digest[: 8 * _ROUNDS])


def permuted(place: int, records: int, keys: tuple[int, ...], shape: tuple[int, int]) -> int:
    """Where a place goes in the permutation of all `records` places that the keys choose.

    A Feistel network on the row and the column of a near-square: each round adds to the one a
    number that is mixed of the other, which can be undone, so no two places meet. What falls on one
    of the few fields behind the last record goes on until it falls on a record.

    Args:
        place: 0 <= place < records.
        records: how many there are.
        keys: from `round_keys`.
        shape: from `sides`.
    """
    while True:
        place = feistel(place, keys, shape)
        if place < records:
            return place


def feistel(place: Any, keys: tuple[int, ...], shape: tuple[int, int]) -> Any:
    """One pass over the fields of the square; an int, or u64[n] at once."""
    height, width = shape
    row, column = place // width, place % width
    for key, other in zip(keys[::2], keys[1::2], strict=True):
        row = (row + _mixed(column, key)) % height
        column = (column + _mixed(row, other)) % width
    return row * width + column


def _mixed(x: Any, key: int) -> Any:
    """32 bits, each of which depends on all of x and of the key."""
    x = ((x + key) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 31)) * 0x94D049BB133111EB) & _WORD
    return x >> 32
