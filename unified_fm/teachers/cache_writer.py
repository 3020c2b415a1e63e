"""Writes a teacher's cache (`cache.py` describes the folder): whole, or not at all.

A bucket has no arrays that are written to row by row: they are made in a local folder and copied at
the end, `about.json` last, without which there is no cache.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import buckets
from unified_fm.teachers import cache
from unified_fm.teachers.cache import Need


class Writer:
    """Takes rows of any number of streams, and puts the folder in its place when it is whole."""

    def __init__(self, to: Any):
        """Takes the new folder.

        Raises:
            ValueError: it exists.
        """
        self._to = buckets.path(to)
        if buckets.exists(self._to):
            raise ValueError(f"{to} exists; a cache is not written over anything")
        if buckets.holds(self._to):
            self._local = tempfile.TemporaryDirectory()  # removed with this object
            self._partial = Path(self._local.name)
        else:
            self._partial = self._to.with_name(f"{self._to.name}.partial")
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
        self._streams: dict[str, dict[str, Any]] = {}
        self._classes: dict[str, int] = {}
        self._arrays: dict[tuple[str, str], dict[str, np.memmap]] = {}
        self._mass: dict[tuple[str, str], np.ndarray] = {}

    def begin(
        self,
        stream: str,
        *,
        slots: int,
        needs: Mapping[str, Sequence[Need]],
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins a stream; `needs` are those of `cache.keys_needed`, `data` of `cache.data_of`."""
        self._streams[stream] = {
            **{"slots": slots, "keys": sorted(needs), "data": data},
            "rests": {key: cache.lumps_of(pairs) for key, pairs in needs.items()},
        }

    def add(
        self,
        stream: str,
        key: str,
        start: int,
        found: Mapping[str, np.ndarray],
        *,
        used: np.ndarray,
        classes: int,
    ) -> None:
        """Writes the rows from a slot on; those beyond the last slot are left out.

        Args:
            found: as `cache.best` makes it of this stream's `lumps_of(needs)`.
            used: bool[rows ...], `used_of` the batch.
            classes: C.
        """
        slots, where = self._streams[stream]["slots"], (stream, key)
        self._classes[key] = classes
        if where not in self._arrays:
            paths = cache.files(self._partial, stream, key)
            self._arrays[where] = {
                what: np.lib.format.open_memmap(
                    paths[what], mode="w+", dtype=x.dtype, shape=(slots, *x.shape[1:])
                )
                for what, x in found.items()
            }
            self._mass[where] = np.zeros((len(self._streams[stream]["rests"][key]), 2))
        count = min(len(used), slots - start)
        for what, x in found.items():
            self._arrays[where][what][start : start + count] = x[:count]
        if "rest" not in found:
            return
        for i, (kind, temperature) in enumerate(self._streams[stream]["rests"][key]):
            mass = cache.mass_of_best(kind, found["logits"], found["rest"][..., i], temperature)
            self._mass[where][i] += (mass * used)[:count].sum(), used[:count].sum()

    def finish(self, teacher: Any = None) -> int:
        """Puts the cache in its place, and warns of what it leaves out; returns its size in bytes.

        `teacher` is what `about.json` tells of it.
        """
        for arrays in self._arrays.values():
            for array in arrays.values():
                array.flush()
        for stream, entry in self._streams.items():
            entry["rests"] = {key: self._columns(stream, key) for key in entry["keys"]}
        about = {"keys": self._classes, "streams": self._streams, "teacher": teacher}
        (self._partial / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        size = sum(file.stat().st_size for file in self._partial.iterdir())
        if buckets.holds(self._to):
            arrays = sorted(set(os.listdir(self._partial)) - {"about.json"})
            for name in [*arrays, "about.json"]:
                buckets.upload(self._partial / name, self._to / name)
        else:
            os.replace(self._partial, self._to)
        for stream, entry in self._streams.items():
            cache.warn_of_little_mass(f"the cache {self._to}", stream, entry["rests"])
        return size

    def _columns(self, stream: str, key: str) -> list[dict[str, Any]]:
        """What `about.json` says of the columns of the rest; nothing where all logits are there."""
        if "rest" not in self._arrays[stream, key]:
            return []
        sums = zip(self._streams[stream]["rests"][key], self._mass[stream, key], strict=True)
        return [
            {"kind": kind, "temperature": temperature, "mass_of_best": mass / max(count, 1)}
            for (kind, temperature), (mass, count) in sums
        ]


def used_of(batch: Mapping[str, Any], key: str, rows: int) -> jax.Array:
    """What of a teacher's answers counts: bool[B], bool[B K] of words or bool[B L] of tokens."""
    if key == "mlm":
        return batch["masked_ids"] != -100
    return batch["text_mask"] if key == "mlm_all" else jnp.ones(rows, bool)
