"""One stream's examples in a fixed global order, and its batches from any point of it.

The order is a pure function of (seed, stream, epoch): slot s of the endless stream is place s mod n
of epoch s div n. Global batch b has the slots [b * B, (b + 1) * B), of which process p takes its
contiguous part: the global batch is the same on any number of processes, devices and threads, and
the position of a stream is one number. An unusable record is replaced in its own slot by another
one, drawn from the slot's seed: nothing behind it moves.
"""

import inspect
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from unified_fm import plugins
from unified_fm.data.order import Order, example_rng
from unified_fm.data.skips import Skip, Skips, TooManySkips
from unified_fm.data.source import name_record, open_source
from unified_fm.data.tokenizer import Tokenizer

# Options of a stream that its pipeline does not see, with their types.
_OWN = {
    "pipeline": str,
    "source": str | Sequence[str],
    "batch_size": int,
    "objectives": Mapping,
    "max_skip": float,
    "shuffle": bool,
    "cycle": int,
    "threads": int | None,
}
_PACKED = {"images": int, "packs": int}  # only of pipelines that pack rows of several images
_CHUNK = 16  # examples that a thread takes at once, at most
_ATTEMPTS = 100  # replacements tried for one slot
Batch = dict[str, np.ndarray]


class Loader:
    """The source, pipeline and order of one stream.

    Attributes:
        slots: examples that a global batch takes from the source: its rows, or, where rows are
            packed (regions), its images.
        records: length of the source.
        cycle: epochs after which order, augmentation and masks repeat; 0 = never.
        skips: the account of unusable records of this process.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        tokenizer: Tokenizer | None = None,
    ):
        """Opens the source and builds the pipeline.

        Raises:
            ValueError: an unknown source or pipeline, sizes that do not divide, a source with
                fewer records than a batch.
            TypeError: an unknown option, with the nearest one.
        """
        cv2.setNumThreads(0)  # Grain's threads take an image each; OpenCV's own would compete
        self.name = name
        self.config = dict(config)
        self.seed = zlib.crc32(f"{seed}/{name}".encode())
        self._process = (process_index, process_count)
        self.pipeline = _pipeline(name, self.config, tokenizer)
        self.rows = self.config["batch_size"]
        self.packed = hasattr(self.pipeline, "collate")
        self.packs = self.config.get("packs", 1) if self.packed else process_count
        self.slots = self.config.get("images") if self.packed else self.rows
        self._check_sizes()
        self.source = open_source(self.config["source"])
        self.records = len(self.source)
        self.skips = Skips(name, max_skip=self.config.get("max_skip", 0.01))
        for problem, file in getattr(self.source, "problems", ()):
            self.skips.leave_out(problem, file)
        self.skips.check_lost(getattr(self.source, "lost", 0), self.records)
        self.order = Order(self.records, seed=self.seed, shuffle=self.config.get("shuffle", True))
        self.cycle = int(self.config.get("cycle", 0))

    @property
    def local_slots(self) -> int:
        """Slots of a global batch that belong to this process."""
        return self.slots // self._process[1]

    def slot_of(self, start: int, place: int) -> int:
        """The global slot of this process's example number `place`, counted from slot `start`."""
        batch, within = divmod(place, self.local_slots)
        return start + batch * self.slots + self._process[0] * self.local_slots + within

    def index_of(self, slot: int) -> int:
        """The record that the order puts in a slot; if it is unusable, another stands in for it."""
        return self.order.index(self.in_cycle(slot))

    def in_cycle(self, slot: int) -> int:
        """The slot that a slot repeats: itself, unless the stream's epochs come in cycles."""
        return slot % (self.cycle * self.records) if self.cycle else slot

    def example(self, slot: int, skips: Skips | None = None) -> dict[str, Any]:
        """The arrays of one slot, or of the record that stands in for its own.

        Args:
            slot: of the endless stream.
            skips: the account to use in place of the loader's own.

        Raises:
            TooManySkips: more records are unusable than the config allows.
        """
        met = self.order.epoch(slot)  # in the epoch that the log speaks of, cycles or not
        slot = self.in_cycle(slot)
        epoch, first = self.order.epoch(slot), self.order.index(slot)
        index = first
        for attempt in range(_ATTEMPTS):
            rng = example_rng(self.seed, epoch, index, attempt)
            example = self.load(index, rng, skips or self.skips, epoch=met)
            if example is not None:
                return example
            replacement = example_rng(self.seed, epoch, first, -1 - attempt)
            index = int(replacement.integers(self.records))
        raise TooManySkips(
            f"stream {self.name!r}: {_ATTEMPTS} records in a row could not be used\n"
            f"{self.skips.table()}"
        )

    def batches(self, start: int) -> Iterator[Batch]:
        """Endless batches of this process from global slot `start` on; close() ends the threads."""
        return self._read(_Slots(self, start), 2**40, self.collate)

    def once(self, limit: int | None = None) -> Iterator[Batch]:
        """One pass in the order of the source; the last batch is filled up with weight-0 rows.

        Every batch has `weight`; a record that cannot be used has weight 0 too. Rows of weight 0
        are copies of a good row.
        """
        total = min(self.records, limit or self.records)
        return self._read(_Once(self, total), -(-total // self.slots), self._collate_once)

    def collate(self, examples: list[dict[str, Any] | None]) -> Batch:
        """The examples of this process as its part of the global batch."""
        if self.packed:
            return self.pipeline.collate(
                examples,
                rows=self.rows // self._process[1],
                packs=self.packs // self._process[1],
                first_image=self._process[0] * self.local_slots,
            )
        keys = examples[0].keys()
        for example in examples:
            if example.keys() != keys:
                raise ValueError(
                    f"stream {self.name!r}: its examples have different arrays:"
                    f" {sorted(keys)} and {sorted(example)}"
                )
        return {key: np.stack([example[key] for example in examples]) for key in keys}

    def _collate_once(self, found: list[dict[str, Any] | None]) -> Batch:
        if self.packed:
            return self.collate(found)
        good = next((e for e in found if e is not None), None)
        if good is None:
            good = self.example(0, self.skips.renewed())  # a filler is not to be counted
        batch = self.collate([good if example is None else example for example in found])
        return batch | {"weight": np.array([e is not None for e in found], np.float32)}

    def load(
        self, index: int, rng: np.random.Generator, skips: Skips, *, epoch: int = 0
    ) -> dict[str, Any] | None:
        """The arrays of one record; None, and counted in `skips`, if it cannot be used.

        Raises:
            TooManySkips: more records are unusable than the config allows.
        """
        example = None

        def record():
            return name_record(self.source, self.config["source"], index, example)

        try:
            example = self.source[index]
            if "id" not in example:
                example = {**example, "id": index}
            arrays = self.pipeline(example, rng)
        except Skip as skip:
            skips.skip(skip, record, epoch=epoch)
            return None
        except Exception as error:
            error.add_note(f"in stream {self.name!r}, {record()}")
            raise
        skips.use(arrays.pop("parts", None), record=record, epoch=epoch)
        return arrays

    def _read(
        self, example: Callable[[int], Any], batches: int, collate: Callable[[list], Batch]
    ) -> Iterator[Batch]:
        """Reads `batches` batches of example(0), example(1), ... with Grain's threads."""
        # A thread takes several examples at once: for short texts Grain's work for each element
        # is more than the example's own.
        chunk = next(size for size in range(_CHUNK, 0, -1) if self.local_slots % size == 0)
        per_batch = self.local_slots // chunk
        chunks = grain.MapDataset.source(_Chunks(example, chunk, batches * per_batch))
        threads = self.config.get("threads") or min(16, _cores())
        ahead = max(2 * threads, min(2 * per_batch, 512 // chunk))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return iter(
            chunks.to_iter_dataset(options).batch(
                per_batch, batch_fn=lambda parts: collate([e for part in parts for e in part])
            )
        )

    def _check_sizes(self) -> None:
        processes = self._process[1]
        if self.packed and self.slots is None:
            raise ValueError(
                f"stream {self.name!r} packs several rows (texts) per image: beside"
                f" batch_size={self.rows}, its rows, it needs images=..., those of the global batch"
            )
        if self.packs < 1 or self.packs % processes:
            raise ValueError(
                f"stream {self.name!r}: packs={self.packs} is not a multiple of the"
                f" {processes} processes"
            )
        for what, size in (("batch_size", self.rows), ("images", self.slots)):
            if size < 1 or size % self.packs:
                raise ValueError(
                    f"stream {self.name!r}: {what}={size} does not divide among {self.packs}"
                    f" {'packs' if self.packed else 'processes'}"
                )

    def check_filled(self) -> None:
        """Refuses a source with fewer records than one batch takes.

        Raises:
            ValueError: with both counts.
        """
        if self.records < self.slots:
            raise ValueError(
                f"stream {self.name!r}: {self.config['source']} has {self.records} records, fewer"
                f" than the {self.slots} of one batch; make the batch smaller or add data"
            )


class _Slots:
    """The endless examples of one process, by place."""

    def __init__(self, loader: Loader, start: int):
        self._loader, self._start = loader, start
        # Threads go on a little after they were stopped: they must not count for who comes next.
        self._skips = loader.skips

    def __call__(self, place: int) -> dict[str, Any]:
        return self._loader.example(self._loader.slot_of(self._start, place), self._skips)


class _Once:
    """The examples of one pass, by place; None where there is none."""

    def __init__(self, loader: Loader, total: int):
        self._loader, self._total = loader, total

    def __call__(self, place: int) -> dict[str, Any] | None:
        index = self._loader.slot_of(0, place)
        if index >= self._total:
            return None
        rng = example_rng(self._loader.seed, 0, index)
        return self._loader.load(index, rng, self._loader.skips)


class _Chunks:
    """Lists of `size` consecutive examples, as random access for Grain."""

    def __init__(self, example: Callable[[int], Any], size: int, length: int):
        self._example, self._size, self._length = example, size, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, chunk: int) -> list[Any]:
        first = chunk * self._size
        return [self._example(place) for place in range(first, first + self._size)]


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_options(pipeline: Any) -> dict[str, Any]:
    """{option: type} of a stream with this pipeline (the class), beside the pipeline's own."""
    return _OWN | (_PACKED if hasattr(pipeline, "collate") else {})


def _pipeline(name: str, config: Mapping[str, Any], tokenizer: Tokenizer | None) -> Any:
    """Builds the pipeline from the options that are not the stream's own."""
    for key in ("pipeline", "source", "batch_size"):
        if key not in config:
            raise ValueError(f"stream {name!r} lacks {key!r}; it has {', '.join(sorted(config))}")
    made = plugins.load("data.pipelines", config["pipeline"])
    parameters = inspect.signature(made).parameters
    own = own_options(made)
    options = {key: value for key, value in config.items() if key not in own}
    for key in options:
        if key not in parameters:
            known = [*own, *(p for p in parameters if p != "tokenizer")]
            raise TypeError(
                f"stream {name!r} takes no option {key!r}; {plugins.possible(key, known)}"
            )
    if "tokenizer" in parameters:
        if tokenizer is None and parameters["tokenizer"].default is inspect.Parameter.empty:
            raise ValueError(
                f"stream {name!r} ({config['pipeline']}) needs a tokenizer; none given"
            )
        options["tokenizer"] = tokenizer
    return made(**options)
