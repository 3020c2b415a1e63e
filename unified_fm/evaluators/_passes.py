"""Held-out data: decoded once for all who ask for it, by each process its part."""

import dataclasses
import io
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from unified_fm.data.loader import Loader

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of the processes that share an evaluation this one is.

    The methods that gather wait for all the others: every process must call them alike.
    """

    index: int = 0
    count: int = 1

    def part(self, total: int) -> range:
        """Those of `total` records that are this process's."""
        size = -(-total // self.count)
        return range(min(self.index * size, total), min((self.index + 1) * size, total))

    def gather(self, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows of all processes in their order; who has none gives an empty dict."""
        if self.count == 1:
            return dict(rows)
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **rows)
        parts = [np.load(io.BytesIO(found)) for found in _exchange(out.getvalue())]
        names = dict.fromkeys(name for part in parts for name in part)
        return {
            name: np.concatenate([part[name] for part in parts if name in part]) for name in names
        }

    def gather_values(self, values: Sequence[Any]) -> list[Any]:
        """The values of all processes in their order, as JSON keeps them."""
        if self.count == 1:
            return list(values)
        own = json.dumps(list(values), default=str).encode()
        return [value for found in _exchange(own) for value in json.loads(found)]


def _exchange(own: bytes) -> list[bytes]:
    """What each process says. As bytes, since a device has no numbers of 64 bits."""
    sizes = multihost_utils.process_allgather(np.int32(len(own)))
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    found = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]) for row, size in zip(found, sizes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Pass:
    """The usable ones of this process's part of some held-out records.

    Attributes:
        records: as their source has them.
        arrays: {name: [n ...]}, what the pipeline makes of them; none of n = 0.
        first: how many usable ones the processes before this one have.
    """

    records: Sequence[Mapping[str, Any]]
    arrays: Mapping[str, np.ndarray]
    first: int

    def numbered(self) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
        """Yields (row of `arrays`, number among the usable ones of all processes, record)."""
        for row, record in enumerate(self.records):
            yield row, self.first + row, record


class Passes:
    """The passes of one evaluation, for all its evaluators.

    Attributes:
        processes: that share it.
        shards: parts into which the devices of a process share a batch, if that divides its rows;
            else each computes all of it.
        progress: to be called as an evaluator's own work goes on, which would else be taken for a
            stall after some minutes (`watchdog.minutes`) without a call of the model.
        lossy: {source: its used and skipped records in one line, of this process}, of sources of
            which something was left out.
    """

    def __init__(self, process_index: int = 0, process_count: int = 1, shards: int = 1):
        self.processes = Processes(process_index, process_count)
        self.shards = shards
        self.progress: Callable[[], None] = lambda: None
        self.lossy: dict[str, str] = {}
        self._kept: dict[tuple[Any, ...], Pass] = {}

    def get(
        self,
        key: tuple[Any, ...],
        open_loader: Callable[[], Loader],
        count: int | None,
        rng: Callable[[int], np.random.Generator],
    ) -> Pass:
        """The pass over the first `count` records of a loader, or all: made once for each key.

        The key is the source, and all else that tells this pass from others; `rng` gives the random
        numbers of a record, by its number.

        Raises:
            ValueError: none of the records is usable.
        """
        if key not in self._kept:
            loader = open_loader()
            self._kept[key] = _read(loader, count, rng, self.processes, self.progress)
            if loader.skips.lossy:
                self.lossy[key[0]] = loader.skips.line()
        return self._kept[key]

    def keep(self, sources: Collection[str]) -> None:
        """Drops what is of other sources than these."""
        self._kept = {key: made for key, made in self._kept.items() if key[0] in sources}


def nothing_usable(loader: Loader) -> ValueError:
    """The error about a source of which nothing can be used, with the reasons."""
    return ValueError(f"no usable record in {loader.entry.source!r}\n{loader.skips.table()}")


def _read(loader, count, rng, processes, progress) -> Pass:
    part = processes.part(min(count or loader.records, loader.records))
    records, arrays = [], {}
    for example in loader.examples(part, rng):
        progress()
        for name, value in example.arrays.items():
            if name not in arrays:  # filled in place: a copy of all images would be large
                arrays[name] = np.empty((len(part), *np.shape(value)), np.asarray(value).dtype)
            arrays[name][len(records)] = value
        records.append(example.record)
    used = processes.gather({"used": np.array([len(records)])})["used"]
    if not used.any():
        raise nothing_usable(loader)
    if loader.skips.lossy:
        _log.warning("%s", loader.skips.table())
    arrays = {name: rows[: len(records)] for name, rows in arrays.items()}
    return Pass(records, arrays, int(used[: processes.index].sum()))
