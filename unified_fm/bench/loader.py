"""The streams of a config alone: how many batches a second this machine loads."""

import contextlib
import time

from unified_fm import setup
from unified_fm.config.settings import Settings

_READ_AHEAD = 4  # batches that lie ready when the first one was waited for


def report(settings: Settings, count: int) -> list[str]:
    """Loads so many batches of every stream; returns the lines to print.

    Raises:
        ValueError: sources or a tokenizer that are not there.
    """
    ready = setup.prepare(settings)
    with contextlib.closing(ready.open_streams()) as streams:
        for _ in range(1 + _READ_AHEAD):
            batches = next(streams)
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            next(streams)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    size = sum(array.nbytes for batch in batches.values() for array in batch.values())
    samples = settings.samples_per_step
    return [
        f"loader        {count / seconds:.2f} batches/s, {count * samples / seconds:.1f} samples/s",
        f"cpu           {count * samples / cpu:.1f} samples per CPU-second",
        f"bytes         {size / 1e6:.3f} MB a batch, {count * size / seconds / 1e6:.1f} MB/s",
    ]
