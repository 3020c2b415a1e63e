"""One stream's examples in a fixed global order, and its batches from any point of it.

The order is a pure function of (seed, stream, epoch): slot s of the endless stream is place s mod n
of epoch s div n (of several sources with weights: see `mixture`). Global batch b has the slots
[b * B, (b + 1) * B), of which a process takes those of its devices: the global batch is the same on
any number of processes, devices and threads, and the position of a stream is one number. An
unusable record is replaced in its own slot by another one of its source, drawn from the slot's
seed: nothing behind it moves.
"""

import os
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from unified_fm.data import mixture, specs
from unified_fm.data.batching import Batching, Entry, Part
from unified_fm.data.order import ExampleRng, Order, example_rng
from unified_fm.data.skips import Skip, Skips, TooManySkips
from unified_fm.data.source import Concatenation, entries, name_record, of_entries, open_source
from unified_fm.data.sources.base import Source
from unified_fm.data.specs import Tree
from unified_fm.data.tokenizer import Tokenizer

_CHUNK = 16  # examples that a thread takes at once, at most
_FEW = 4  # ... where the whole is not endless
_AHEAD = 512  # examples that are read ahead, about
_ATTEMPTS = 100  # replacements tried for one slot
Batch = Tree  # {array: values}; what a reader gives beside the pipeline's may be nested
Examples = list[Any]  # dicts of arrays, or `Example`s

Reader = Callable[[np.ndarray], Tree]
"""Gives, for slots i64[n] of a stream, nested dicts of arrays with a row for each: they come beside
the pipeline's arrays. Called in the loader's threads."""


class Example(NamedTuple):
    """A record, and the arrays that the pipeline makes of it."""

    record: dict[str, Any]
    arrays: dict[str, Any]


class Loader(Batching):
    """A stream's pipeline and sizes, with its source and its order.

    Attributes:
        entry: of the config.
        run_seed: the seed that it was given; `seed` is its own.
        tokenizer: that it was given.
        records: length of the source.
        order: which record stands in which slot.
        opening: seconds that it took to open the source.
        cycle: epochs after which order, augmentation and masks repeat; 0 = never.
        skips: the account of unusable records of this process.
    """

    def __init__(
        self,
        name: str,
        config: Entry | Mapping[str, Any],
        *,
        seed: int,
        part: Part | None = None,
        tokenizer: Tokenizer | None = None,
        extra: Callable[["Loader"], Reader] | None = None,
    ):
        """Opens the source and builds the pipeline.

        `part` of every batch is what this process loads (None = all of it); `extra` opens a reader
        of more arrays, once all else of this loader is known.

        Raises:
            ValueError: an unknown source or pipeline, sizes that do not divide, a source with
                fewer records than a batch.
            TypeError: an unknown option, with the nearest one.
        """
        cv2.setNumThreads(0)  # Grain's threads take an image each; OpenCV's own would compete
        self.entry = Entry.of(name, config)
        super().__init__(
            name,
            self.entry,
            part=part,
            tokenizer=tokenizer,
        )
        self.run_seed, self.tokenizer = seed, tokenizer
        self.seed = zlib.crc32(f"{seed}/{name}".encode())
        began = time.monotonic()
        self.source, sizes = self._opened()
        self.opening = time.monotonic() - began
        self.records = len(self.source)
        self.skips = Skips(name, max_skip=self.entry.max_skip)
        for problem, file in self.source.problems:
            self.skips.leave_out(problem, file)
        self.skips.check_lost(self.source.lost, self.records)
        self.order = self._ordered(sizes)
        self.cycle = self.entry.cycle
        self._rng = ExampleRng()
        self._extra = None if extra is None else extra(self)

    @property
    def chunk(self) -> int:
        """Examples that a thread or a worker takes at once; it divides those of a batch.

        For short texts the work for each piece is more than that for an example.
        """
        return next(size for size in range(_CHUNK, 0, -1) if self.local_slots % size == 0)

    def spec(self) -> Tree:
        """{array: its shape and dtype} of the global batch; no example is read for it."""
        extra = specs.of_rows(self.extra([0]), self.slot_axis)
        return super().spec() | self.of_global_batch(extra)

    def extra(self, slots: Sequence[int]) -> Tree:
        """What comes beside the pipeline's arrays in these slots: rows for each of them."""
        if self._extra is None:
            return {}
        return self._extra(np.array([self.in_cycle(slot) for slot in slots], np.int64))

    def index_of(self, slot: int) -> int:
        """The record that the order puts in a slot; if it is unusable, another stands in for it."""
        return self.order.index(self.in_cycle(slot))

    def in_cycle(self, slot: int) -> int:
        """The slot that a slot repeats: itself, unless the stream's epochs come in cycles."""
        return slot % (self.cycle * self.records) if self.cycle else slot

    def example(self, slot: int, skips: Skips | None = None) -> dict[str, Any]:
        """The arrays of one slot, or of the record that stands in for its own.

        An account given as `skips` is used in place of the loader's own.

        Raises:
            TooManySkips: more records are unusable than the config allows.
        """
        met = self.order.epoch(slot)  # in the epoch that the log speaks of, cycles or not
        epoch, first, among = self.order.visit(self.in_cycle(slot))
        index = first
        account: Skips | None = skips or self.skips
        last = ""
        for attempt in range(_ATTEMPTS):
            rng = self._rng(self.seed, epoch, index, attempt)
            try:
                return self._used(index, rng, account, met).arrays
            except Skip as skip:
                if attempt == _ATTEMPTS - 1:
                    named = name_record(self.source, self.entry.source, index)
                    last = f"; the last was {named} ({skip})"
            replacement = example_rng(self.seed, epoch, first, -1 - attempt)
            index = among[int(replacement.integers(len(among)))]
            account = None  # it is counted in its own slot: an epoch counts each record once
        raise TooManySkips(
            f"stream {self.name!r}: {_ATTEMPTS} records in a row could not be used{last}. Repair"
            " the data, or name other data as its source; `unified-fm data check` names all such"
            f" records\n{(skips or self.skips).table()}"
        )

    def epochs(self, slots: int) -> list[float]:
        """How many epochs of each source of a mixture the first `slots` slots are; else none."""
        if not isinstance(self.order, mixture.Mixture):
            return []
        period = self.cycle * self.records or slots + 1
        met = np.array(self.order.met(slots % period))
        if slots >= period:
            met += slots // period * np.array(self.order.met(period))
        return (met / self.order.lengths).tolist()

    def epochs_said(self, slots: int) -> str:
        """The same in words, to go on a line of the log."""
        found = self.epochs(slots)
        if not found:
            return ""
        sources = ["+".join(parts) for parts in entries(self.entry.source)]
        told = [f"{epochs:.2f} of {one}" for epochs, one in zip(found, sources, strict=True)]
        return f"; epochs of its sources: {', '.join(told)}"

    def batches(self, start: int) -> Iterator[Batch]:
        """Endless batches of this process from global slot `start` on; close() ends the threads."""
        # Threads go on a little after they were stopped: they must not count for who comes next.
        skips = self.skips

        def part(places: range) -> _Part:
            slots = [self.slot_of(start, place) for place in places]
            return _Part([self.example(slot, skips) for slot in slots], self.extra(slots))

        return self._batched(part, 2**40, self.collate)

    def once(self, limit: int | None = None, turn: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """One pass in the order of the source; the last batch is filled up with weight-0 rows.

        Every batch has `weight`; a record that cannot be used has weight 0 too. Rows of weight 0
        are copies of a good row. `extra` is not read: it belongs to the slots of the order.

        Args:
            limit: records to use, from the first on.
            turn: (i, n) gives only the batches i, i + n, i + 2n, ...
        """
        total = min(self.records, limit or self.records)
        batches = range(turn[0], -(-total // self.slots), turn[1])

        def example(place: int) -> dict[str, Any] | None:
            batch, within = divmod(place, self.local_slots)
            index = self.slot_of(batches[batch] * self.slots, within)
            if index >= total:
                return None
            return self.load(index, example_rng(self.seed, 0, index), self.skips)

        def part(places: range) -> _Part:
            return _Part([example(place) for place in places], {})

        return self._batched(part, len(batches), self._collate_once)

    def _collate_once(self, found: Examples) -> Batch:
        if self.pipeline.packed:
            return self.collate(found)
        good = next((e for e in found if e is not None), None)
        if good is None:
            good = self.example(0, self.skips.renewed())  # a filler is not to be counted
        batch = self.collate([good if example is None else example for example in found])
        return batch | {"weight": np.array([e is not None for e in found], np.float32)}

    def examples(
        self, numbers: Sequence[int], rng: Callable[[int], np.random.Generator]
    ) -> Generator[Example, None, None]:
        """The usable ones of some records in their order, read by Grain's threads.

        `rng` gives the random numbers of a record, by its number.
        """

        def part(places: range) -> _Part:
            wanted = [numbers[place] for place in places if place < len(numbers)]
            return _Part([self._read(number, rng(number), self.skips) for number in wanted], {})

        for found in self._parts(part, _FEW, -(-len(numbers) // _FEW), ahead=_AHEAD // _FEW):
            yield from (example for example in found.examples if example is not None)

    def load(
        self, index: int, rng: np.random.Generator, skips: Skips | None
    ) -> dict[str, Any] | None:
        """The arrays of one record; None if it cannot be used. It is counted in `skips`, if given.

        Raises:
            TooManySkips: more records are unusable than the config allows.
        """
        found = self._read(index, rng, skips)
        return None if found is None else found.arrays

    def _read(self, index: int, rng: np.random.Generator, skips: Skips | None) -> Example | None:
        try:
            return self._used(index, rng, skips, 0)
        except Skip:
            return None

    def _used(
        self, index: int, rng: np.random.Generator, skips: Skips | None, epoch: int
    ) -> Example:
        """A record and its arrays; either way it is counted. Raises `Skip`: it cannot be used."""
        example = None

        def record():
            return name_record(self.source, self.entry.source, index, example)

        try:
            example = self.source[index]
            if example.get("id") is None:
                example = {**example, "id": index}
            arrays = self.pipeline(example, rng)
        except Skip as skip:
            if skips is not None:
                skips.skip(skip, record, epoch=epoch)
            raise
        except Exception as error:
            error.add_note(f"in stream {self.name!r}, {record()}")
            raise
        parts = arrays.pop("parts", None)
        if skips is not None:
            skips.use(parts, record=record, epoch=epoch)
        return Example(example, arrays)

    def _batched(
        self, part: Callable[[range], "_Part"], batches: int, collate: Callable[[list], Batch]
    ) -> Iterator[Batch]:
        """Batches of the examples in places 0, 1, ..., read by Grain's threads."""
        per_batch = self.local_slots // self.chunk
        ahead = min(2 * per_batch, _AHEAD // self.chunk)
        parts = self._parts(part, self.chunk, batches * per_batch, ahead=ahead)

        def join(parts: Sequence[_Part]) -> Batch:
            batch = collate([example for part in parts for example in part.examples])
            return batch | specs.concatenate([part.extra for part in parts])

        return iter(parts.batch(per_batch, batch_fn=join))

    def _parts(self, part: Callable[[range], "_Part"], size: int, count: int, *, ahead: int) -> Any:
        """The first `count` parts of `size` places each; about `ahead` of them lie ready.

        A `grain.IterDataset`.
        """
        import grain  # only where data are read: what needs none does without it

        threads = self.entry.threads or min(16, cores())
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(2 * threads, ahead)
        )
        return grain.MapDataset.source(_Chunks(part, size, count)).to_iter_dataset(options)

    def _opened(self) -> tuple[Source, list[int]]:
        """The source of what the pipeline is given; and how much there is of each that is weighed.

        A pipeline may make other records of the source's (rows of long documents): in a mixture it
        does so of each by itself.
        """
        opened = open_source(self.entry.source)
        if self.entry.weights is None:
            source = self.pipeline.records_of(opened)
            return source, [len(source)]
        parts = of_entries(self.entry.source, opened)
        made = [self.pipeline.records_of(part) for part in parts]
        sizes = [len(part) for part in made]
        if all(new is old for new, old in zip(made, parts, strict=True)):
            return opened, sizes
        return Concatenation(made, ["+".join(each) for each in entries(self.entry.source)]), sizes

    def _ordered(self, sizes: Sequence[int]) -> Order | mixture.Mixture:
        entry = self.entry
        if entry.weights is None:
            return Order(self.records, seed=self.seed, shuffle=entry.shuffle)
        where = f"stream {self.name!r}: weights"
        stages = mixture.read(entry.weights, len(sizes), where, cycle=entry.cycle)
        return mixture.Mixture(
            sizes, stages, batch=self.slots, seed=self.seed, shuffle=entry.shuffle
        )

    def check_filled(self) -> None:
        """Refuses a source with fewer records than one batch takes.

        Raises:
            ValueError: with both counts.
        """
        if self.records < self.slots:
            raise ValueError(
                f"stream {self.name!r}: {self.entry.source} has {self.records} records, fewer"
                f" than the {self.slots} of one batch; make the batch smaller or add data"
            )


class _Part(NamedTuple):
    """What a thread reads at once: examples, None where there is none, and what is beside them."""

    examples: Examples
    extra: Tree


class _Chunks:
    """Parts of `size` consecutive places; the random access that Grain wants of a source."""

    def __init__(self, part: Callable[[range], _Part], size: int, length: int):
        self._part, self._size, self._length = part, size, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> _Part:
        return self._part(range(index * self._size, (index + 1) * self._size))


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
