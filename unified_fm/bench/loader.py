"""The streams of a config alone: how fast they load, by how many, and what the time is for."""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

from unified_fm import setup
from unified_fm.bench import pictures, shares
from unified_fm.config.settings import Settings
from unified_fm.data import images, jpeg
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.loader import Loader
from unified_fm.data.streams import Streams
from unified_fm.data.workers import Workers

WORKERS = (1, 2, 4, 8)
_READ_AHEAD = 4  # batches that lie ready when the first one was waited for
_DECODED = 64  # pictures of each stream that are decoded alone, at most
_DECODE_FOR = 0.5  # CPU-seconds
_MADE_UP = 2048  # records, at least
_EXAMPLES = 300  # whose time is taken apart, of each stream
_STARTING = 120.0  # seconds in which worker processes must be ready


class _Rate(NamedTuple):
    batches: float  # per second
    samples: float  # per CPU-second of all processes; 0: not known here
    bytes: int  # of a batch of every stream


def report(
    settings: Settings,
    count: int,
    *,
    workers: Sequence[int] = WORKERS,
    only: Sequence[str] = (),
    made_up: bool = False,
) -> list[str]:
    """Loads so many batches of every stream with each number of workers; returns what to print.

    Args:
        settings: of the run.
        count: batches each.
        workers: numbers of threads, and of processes, to try beside what the config says.
        only: streams to load; none: all.
        made_up: read made-up photographs in place of the config's sources.

    Raises:
        ValueError: sources or a tokenizer that are not there, or no such stream.
    """
    with contextlib.ExitStack() as held:
        settings = _chosen(settings, only)
        if made_up:
            folder = held.enter_context(tempfile.TemporaryDirectory())
            slots = [stream.images or stream.batch_size for stream in settings.streams.values()]
            made = pictures.write(os.path.join(folder, "made"), max(_MADE_UP, *slots))
            settings = _made_up(settings, made)
        ready = setup.prepare(settings)
        with contextlib.closing(_by(ready, 0).open_streams()) as streams:
            encoded = [data for loader in streams.loaders.values() for data in _encoded(loader)]
            shown = sum(loader.slots for loader in streams.loaders.values() if _shows(loader))
            spent = shares.spent(streams.loaders, _EXAMPLES)
        bench = _Bench(ready, count, encoded, shown / settings.samples_per_step)
        lines = bench.configured()
        for number in workers:
            lines.append(bench.line(f"threads {number}", processes=0, threads=number))
        for number in workers:
            lines.append(bench.line(f"processes {number}", processes=number, threads=None))
        return [*lines, *bench.decoding(), *spent]


class _Bench:
    """Measures one number of workers after the other, and simplejpeg alone before each."""

    def __init__(self, ready: setup.Prepared, count: int, encoded: list[bytes], shown: float):
        self._ready, self._count = ready, count
        self._encoded, self._shown = encoded, shown  # pictures, and their share of all samples
        self._alone: list[float] = []  # pictures per CPU-second

    def configured(self) -> list[str]:
        """What the config says, with the heading of the lines that follow."""
        found, who = self._measured(processes=None, threads=None)
        samples = found.batches * self._ready.settings.samples_per_step
        return [
            f"loader        {found.batches:.2f} batches/s, {samples:.1f} samples/s, {who}",
            f"cpu           {found.samples:.1f} samples per CPU-second",
            f"bytes         {found.bytes / 1e6:.3f} MB a batch,"
            f" {found.batches * found.bytes / 1e6:.1f} MB/s",
            f"{'workers':14}{'samples/s':>10}{'per CPU-second':>16}{'of decode-only':>16}",
        ]

    def line(self, name: str, *, processes: int, threads: int | None) -> str:
        """The line of one number of workers."""
        if self._encoded:
            self._alone.append(_decode_rate(self._encoded))
        found, _ = self._measured(processes=processes, threads=threads)
        samples = found.batches * self._ready.settings.samples_per_step
        cells = f"{name:14}{samples:10.1f}{found.samples:16.1f}"
        if not self._encoded:
            return cells
        return f"{cells}{found.samples * self._shown / self._alone[-1]:16.0%}"

    def decoding(self) -> list[str]:
        """simplejpeg's rate, if there are pictures for it."""
        if not self._alone:
            return ["decode-only   not measured: no JPEG among the records that were looked at"]
        return [
            f"decode-only   {statistics.median(self._alone):.1f} pictures per CPU-second by"
            f" simplejpeg alone, median; {len(self._encoded)} different ones of the sources"
        ]

    def _measured(self, *, processes: int | None, threads: int | None) -> tuple[_Rate, str]:
        ready = self._ready if processes is None else _by(self._ready, processes)
        with contextlib.closing(ready.open_streams()) as streams:
            for loader in streams.loaders.values() if threads else ():
                loader.entry = dataclasses.replace(loader.entry, threads=threads)
            rate = _rate(streams, self._count, self._ready.settings.samples_per_step)
            by = f"{streams.processes} processes" if streams.processes else "threads"
        return rate, f"by {by}"


def _by(ready: setup.Prepared, processes: int) -> setup.Prepared:
    """The same with so many processes of the loader."""
    loading = ready.settings.loader.replace(processes=processes)
    return dataclasses.replace(ready, settings=ready.settings.replace(loader=loading))


def _rate(streams: Streams, count: int, samples: int) -> _Rate:
    deadline, batches = time.monotonic() + _STARTING, next(streams)
    made_by = streams.start().source
    while isinstance(made_by, Workers) and not made_by.ready and time.monotonic() < deadline:
        next(streams)
    for _ in range(_READ_AHEAD):
        next(streams)
    pids = made_by.pids if isinstance(made_by, Workers) else []
    started, cpu = time.perf_counter(), _cpu_seconds(pids)
    for _ in range(count):
        next(streams)
    seconds, cpu = time.perf_counter() - started, _cpu_seconds(pids) - cpu
    size = sum(array.nbytes for batch in batches.values() for array in _leaves(batch))
    return _Rate(count / seconds, count * samples / cpu if cpu > 0 else 0.0, size)


def _cpu_seconds(pids: Sequence[int]) -> float:
    """Of this process and of these; 0 where the system does not say."""
    found = time.process_time()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return 0.0
        found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _decode_rate(encoded: Sequence[bytes]) -> float:
    """Pictures per CPU-second."""
    count, started = 0, time.thread_time()
    while (spent := time.thread_time() - started) < _DECODE_FOR:
        simplejpeg.decode_jpeg(encoded[count % len(encoded)], "RGB")
        count += 1
    return count / spent


def _encoded(loader: Loader) -> Iterator[bytes]:
    """JPEG files among the first records of a stream."""
    if not _shows(loader):
        return
    for index in range(min(_DECODED, loader.records)):
        image = loader.source[index].get("image")
        data = images.read(image) if isinstance(image, str | os.PathLike) else image
        if isinstance(data, bytes) and jpeg.read_header(data) is not None:
            yield data


def _shows(loader: Loader) -> bool:
    """Whether a stream has pictures."""
    return any(spec.dtype == np.uint8 for spec in loader.pipeline.spec().values())


def _leaves(tree: Mapping[str, Any]) -> Iterator[np.ndarray]:
    for value in tree.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value


def _chosen(settings: Settings, only: Sequence[str]) -> Settings:
    for name in only:
        if name not in settings.streams:
            raise ValueError(f"no stream {name!r}; there are {', '.join(settings.streams)}")
    streams = {name: settings.streams[name] for name in only or settings.streams}
    return settings.replace(streams=streams, gradient_groups=None)


def _made_up(settings: Settings, source: str) -> Settings:
    """The settings with one source for all streams, and with bytes for an absent tokenizer."""
    try:
        tokenizers.load(settings.tokenizer)
        tokenizer = settings.tokenizer
    except (FileNotFoundError, ValueError):
        tokenizer = "bytes"
    streams = {
        name: each.replace(source=source, weights=None) for name, each in settings.streams.items()
    }
    return settings.replace(streams=streams, tokenizer=tokenizer)
