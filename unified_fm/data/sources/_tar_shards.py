"""Tar shards of samples: how many each has, looked for once and kept in one file for a folder.

    FOLDER/.webdataset_index/summary             how many samples each shard of FOLDER has
    FOLDER/.webdataset_index/00000.tar.index     where those of a shard lie (`_tar_index`)

A summary of 100,000 shards is read in a second, and no shard in it that is as it was is opened.
"""

import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unified_fm import buckets
from unified_fm.data import records, shards
from unified_fm.data.sources import _tar_index
from unified_fm.data.sources._kept import Kept, Stamped

_log = logging.getLogger(__name__)

FOLDER = ".webdataset_index"
_THREADS = 16
_AT_ONCE = 512  # shards in one piece of work for a thread
_LINE_EVERY = 10.0  # seconds between two lines about progress
_KEPT = 256_000_000  # bytes of indices in a process


class Shard(NamedTuple):
    """A shard whose samples are known.

    Attributes:
        file: as it was.
        index: the file that says where they lie.
        samples: how many there are.
        fault: why there are no more of them; "" where the shard is whole.
    """

    file: Stamped
    index: str
    samples: int
    fault: str = ""


def open_shards(
    paths: Sequence[str], folder: str = ""
) -> tuple[list[Shard], list[tuple[str, str]]]:
    """Finds the samples of shards, reading only those that no index is known of.

    Args:
        paths: of the shards.
        folder: of the indices; by default one beside the shards, or in the user's cache where
            nothing can be written there.

    Returns:
        The shards that have samples, and (path, what is wrong) of those that are no archives.

    Raises:
        _tar.HostileTar: see there.
        official.WrongFile: a compressed shard.
        OSError: a shard cannot be read, or there is no folder that an index could be kept in.
    """
    places: dict[str, list[str]] = {}
    for path in paths:
        places.setdefault(os.path.dirname(path) or os.curdir, []).append(path)
    found: dict[str, Shard | str] = {}
    for place, members in places.items():
        found |= _Folder(place, folder).open(members)
    opened = [found[path] for path in paths]
    bad = [(path, str(each)) for path, each in found.items() if isinstance(each, str)]
    return [shard for shard in opened if isinstance(shard, Shard)], bad


def samples_of(shard: Shard) -> _tar_index.Samples:
    """The samples of a shard, from its index; found again if that has gone or is damaged.

    Raises:
        shards.ChangedShard: another file has taken the place of the shard.
    """
    return _SAMPLES.get((shard.index, shard.file), lambda: _samples(shard))


def _samples(shard: Shard) -> _tar_index.Samples:
    shard.file.check()
    found = _tar_index.load(shard.index, shard.file)
    if found is None or len(found.keys) != shard.samples:
        found = _tar_index.find_samples(shard.file)
        _tar_index.save(shard.index, found)
    if len(found.keys) != shard.samples:
        raise shards.ChangedShard(
            f"{shard.file.path} has {len(found.keys):,} samples; {shard.samples:,} stand in"
            f" {os.path.dirname(shard.index)}. Remove that folder, and start again"
        )
    return found


class _Folder:
    """The shards of a folder, and the folder of their indices."""

    def __init__(self, place: str, index: str):
        self._place = place
        self._index = index and os.path.join(index, buckets.name_of(place))
        self._found: dict[str, Shard | str] = {}
        self._identities: dict[str, str] = {}
        self._lock, self._said, self._done = threading.Lock(), time.monotonic(), 0
        self._unkept: OSError | None = None  # why an index could not be written

    def open(self, paths: Sequence[str]) -> dict[str, Shard | str]:
        """{path: the shard, or what is wrong with it}; brings the summary up to date."""
        self._index = self._index or self._writable()
        buckets.path(self._index).mkdir(parents=True, exist_ok=True)
        known = self._summary()
        pieces = [paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE)]
        with concurrent.futures.ThreadPoolExecutor(min(_THREADS, len(paths))) as pool:
            stamps = pool.map(lambda piece: list(map(Stamped.of, piece)), pieces)
            rest = [file for piece in stamps for file in piece if not self._take(file, known)]
            if rest:
                _log.info("%s: looking for the samples of %d tar shards", self._place, len(rest))
            try:
                for work in [pool.submit(self._look, file, len(rest)) for file in rest]:
                    work.result()
            except BaseException:  # at once, not after all the others
                pool.shutdown(cancel_futures=True)
                raise
        if rest:
            self._unkept = self._write_summary(known) or self._unkept
        if self._unkept:
            _log.warning(
                "%s: indices are not kept, and are made again at each start: %s",
                *(self._index, self._unkept),
            )
        return self._found

    def _take(self, file: Stamped, known: Mapping[str, tuple[Shard, str]]) -> bool:
        """Whether the summary knows the shard as it is."""
        shard, content = known.get(os.path.basename(file.path), (None, ""))
        if shard is None or shard.file[1:] != file[1:]:
            return False
        self._found[file.path] = shard._replace(file=file)
        self._identities[file.path] = content
        return True

    def _look(self, file: Stamped, count: int) -> None:
        """Finds the samples of a shard, by its index if that fits."""
        path = os.path.join(self._index, f"{os.path.basename(file.path)}.index")
        found = _tar_index.load(path, file)
        if found is None:
            found = _tar_index.find_samples(file)
            if found.keys:
                self._unkept = _tar_index.save(path, found) or self._unkept
        elif found.of_time != file.changed:
            _tar_index.save(path, found._replace(of_time=file.changed))
        with self._lock:
            if found.keys:
                self._found[file.path] = Shard(file, path, len(found.keys), found.fault)
                self._identities[file.path] = found.identity
            else:
                self._found[file.path] = found.fault or "it has no samples"
            self._done += 1
            if time.monotonic() - self._said > _LINE_EVERY:
                self._said = time.monotonic()
                _log.info("%s: %d shards of %d", self._place, self._done, count)

    def _writable(self) -> str:
        """Beside the shards, else in the user's cache."""
        beside = os.path.join(self._place, FOLDER)
        with contextlib.suppress(OSError):
            if not buckets.holds(beside):
                os.makedirs(beside, exist_ok=True)
                if os.access(beside, os.W_OK):
                    return beside
        if buckets.isfile(os.path.join(beside, "summary")):
            return beside  # somebody has made it for all
        folder = buckets.cache_folder("webdataset", self._place)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"an index of the shards can be kept neither in {beside} nor in {folder} ({error});"
                " say where: webdataset:...?index=DIR"
            ) from error
        return folder

    def _summary(self) -> dict[str, tuple[Shard, str]]:
        """{name: shard and identity}; nothing where there is no summary, or a damaged one."""
        try:
            found = records.decode(buckets.read(os.path.join(self._index, "summary")))
            if found["format"] != _tar_index.FORMAT:
                return {}
            columns = (found[name].tolist() for name in ("size", "changed", "samples"))
            rows = zip(found["names"], found["identities"], *columns, strict=True)
            return {
                name: (
                    Shard(
                        Stamped(name, size, changed),
                        os.path.join(self._index, f"{name}.index"),
                        samples,
                        found["faults"].get(name, ""),
                    ),
                    content,
                )
                for name, content, size, changed, samples in rows
                if samples > 0 and os.path.basename(name) == name
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def _write_summary(self, known: Mapping[str, tuple[Shard, str]]) -> OSError | None:
        """Writes what is known now of the folder; other patterns' shards stay in it."""
        new = {
            os.path.basename(path): (shard, self._identities[path])
            for path, shard in self._found.items()
            if isinstance(shard, Shard)
        }
        rows = sorted({**known, **new}.items())
        return write_summary(
            self._index, [(name, shard, content) for name, (shard, content) in rows]
        )


def write_summary(folder: str, rows: Sequence[tuple[str, Shard, str]]) -> OSError | None:
    """Writes the summary of a folder.

    Args:
        folder: of the indices.
        rows: name, shard and identity of each.

    Returns:
        Why it could not be written: on a full disk the next start is only slower.
    """
    known = [shard for _, shard, _ in rows]
    summary = records.encode(
        {
            "format": _tar_index.FORMAT,
            "names": [name for name, _, _ in rows],
            "identities": [content for _, _, content in rows],
            "size": np.array([shard.file.size for shard in known], np.int64),
            "changed": np.array([shard.file.changed for shard in known], np.int64),
            "samples": np.array([shard.samples for shard in known], np.int64),
            "faults": {name: shard.fault for name, shard, _ in rows if shard.fault},
        }
    )
    return _tar_index.write(os.path.join(folder, "summary"), summary)


_SAMPLES: Kept[_tar_index.Samples] = Kept(
    lambda: _KEPT,
    lambda samples: (
        sum(map(len, samples.keys)) + 80 * len(samples.keys) + 4 * samples.offset.nbytes
    ),
)
