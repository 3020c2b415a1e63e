"""Batches that are made once, for all arms that see the same: WORKDIR/batches/KEY/ARRAY.npy.

Two arms of one seed that have a stream have the same batches of it, whatever they learn from them,
and at these sizes making a batch takes longer than a step.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unified_fm import setup
from unified_fm.config import durations
from unified_fm.config.settings import Settings
from unified_fm.data.streams import Streams


def key(run: Settings, stream: str, steps: int) -> str:
    """Of the batches of a stream: what they depend on, which is not what is learnt from them."""
    entry = {k: v for k, v in run.streams[stream].plain().items() if k != "objectives"}
    told = [stream, entry, run.seed, run.tokenizer, steps]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def record(run: Settings, stream: str, folder: Path, progress: Callable[[int], None]) -> None:
    """Makes the batches of a stream of a run, if they are not there yet; they appear whole."""
    ready = setup.prepare(run)
    steps = ready.steps.total
    wanted = folder / key(run, stream, steps)
    if wanted.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    entry = durations.entries(run, ready.counts, lambda: steps)[stream]
    opened = Streams({stream: entry}, seed=run.seed, tokenizer=ready.tokenizer)
    with (
        contextlib.closing(opened) as batches,
        tempfile.TemporaryDirectory(dir=folder, prefix="unfinished-") as unfinished,
    ):
        kept: dict[str, Any] = {}
        for number in range(steps):
            arrays = next(batches)[stream]
            kept = kept or _files(Path(unfinished) / stream, arrays, steps)
            for name, value in arrays.items():
                kept[name][number] = value
            progress(number + 1)
        for array in kept.values():
            array.flush()
        (Path(unfinished) / stream).rename(wanted)


def _files(folder: Path, arrays: Mapping[str, Any], steps: int) -> dict[str, Any]:
    folder.mkdir()
    made = {}
    for name, value in arrays.items():
        like = np.asarray(value)
        path, shape = folder / f"{name}.npy", (steps, *like.shape)
        made[name] = np.lib.format.open_memmap(path, "w+", dtype=like.dtype, shape=shape)
    return made


class Recorded(Iterator[dict[str, Any]]):
    """The batches of a run, in their order, as its streams would make them."""

    def __init__(self, ready: setup.Prepared, folder: Path):
        """Opens the files.

        Args:
            ready: of the run.
            folder: that `record` was given.

        Raises:
            ValueError: the arrays are not those that the run's streams make.
            FileNotFoundError: the batches were not recorded.
        """
        self._step, self._arrays = 0, {}
        steps = ready.steps.total
        for name, shapes in ready.shapes.items():
            path = folder / key(ready.settings, name, steps)
            found = {file.stem: np.load(file, mmap_mode="r") for file in path.iterdir()}
            wanted = {k: ((steps, *leaf.shape), leaf.dtype) for k, leaf in shapes.items()}
            if {k: (a.shape, a.dtype) for k, a in found.items()} != wanted:
                raise ValueError(f"{path} has other arrays than the stream {name!r}: remove it")
            self._arrays[name] = found

    def __next__(self) -> dict[str, Any]:
        step = self._step
        self._step += 1
        return {
            name: {key: array[step] for key, array in arrays.items()}
            for name, arrays in self._arrays.items()
        }

    def close(self) -> None:
        """Closes nothing: the files are read as memory."""
