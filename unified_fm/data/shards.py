"""ArrayRecord files opened on demand: thousands of shards with few descriptors."""

import collections
import concurrent.futures
import errno
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from unified_fm import buckets

_THREADS = 32  # shards opened at once to count their records: on a network the wait is the cost
_OPEN = 4096  # readers kept at most, or a quarter of the limit of open files
_AT_ONCE = 512  # shards in one piece of work for a thread
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_Reader: TypeAlias = array_record_module.ArrayRecordReader
_OPTIONS = "readahead_buffer_size:0"  # of a reader that is asked for single records


class UnreadableShard(ValueError):
    """A file that is there but is not a whole ArrayRecord file."""


class ChangedShard(RuntimeError):
    """A shard that is no longer the file that the run began with."""


class OutOfDescriptors(OSError):
    """The process may not open another file: a fault of its limits, never of the data."""


class Shard(NamedTuple):
    """A shard as it was when its records were counted."""

    path: str
    records: int
    size: int  # bytes
    changed: int  # nanoseconds; of st_mtime_ns; in a bucket, see `buckets.About`


def open_shard(path: str) -> _Reader:
    """Opens one file, and reads its footer.

    Raises:
        UnreadableShard: cut off, not ArrayRecord, or not to be read; says what was found.
        OutOfDescriptors: the limit of open files is reached.
    """
    reader = _Reader(path, options=_OPTIONS)
    if reader.ok():
        return reader
    try:  # the reader keeps its reason to itself until it is asked for a record
        reader.read([0])
        why = "it cannot be read"
    except (RuntimeError, IndexError) as error:
        why = str(error)
    for code in NO_DESCRIPTOR:
        if os.strerror(code) in why:
            raise out_of_descriptors(code, path)
    raise UnreadableShard(f"{path}: {why}")


def out_of_descriptors(code: int, path: str) -> OutOfDescriptors:
    """The error that a file cannot be opened for want of a descriptor (`NO_DESCRIPTOR`)."""
    return OutOfDescriptors(
        code,
        f"{os.strerror(code)}: this process may open {open_file_limit():,} files (ulimit -n), and"
        " they are all in use; raise the limit, or join small files into larger ones",
        path,
    )


def count_records(paths: Sequence[str]) -> list[Shard | UnreadableShard]:
    """Opens each shard, counts its records and closes it; in place of a bad one, its fault.

    Raises:
        OutOfDescriptors: the limit of open files is reached.
    """
    size = max(1, min(_AT_ONCE, len(paths) // _THREADS))
    pieces = [paths[start : start + size] for start in range(0, len(paths), size)]
    threads = max(1, min(_THREADS, len(pieces), open_file_limit() // 8))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return [shard for shards in pool.map(_count, pieces) for shard in shards]


class Readers:
    """The readers of a process, those used last kept open; safe to call from many threads."""

    def __init__(self):
        self._open: collections.OrderedDict[Shard, array_record_module.ArrayRecordReader] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def read(self, shard: Shard, position: int) -> bytes:
        """One record of a shard.

        Raises:
            UnreadableShard: it was readable, and is not any more.
            ChangedShard: another file has taken its place.
            OutOfDescriptors: the limit is reached although all that this object held is let go.
            RuntimeError: the record is damaged.
        """
        return self._reader(shard).read([position])[0]

    def _reader(self, shard):
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        try:
            reader = open_shard(shard.path)
        except OutOfDescriptors:
            self._keep(0)
            reader = open_shard(shard.path)
        if (now := _described(shard.path, reader)) != shard:
            raise ChangedShard(
                f"{shard.path} was replaced: {shard.records:,} records and {shard.size:,} bytes"
                f" when the run began, {now.records:,} and {now.size:,} now. Start again: a run"
                " continues only on the data that it began with"
            )
        with self._lock:
            self._open[shard] = reader
        self._keep(max(1, min(_OPEN, open_file_limit() // 4)))
        return reader

    def _keep(self, count: int) -> None:
        # A reader is not closed but let go: another thread may still be reading with it.
        with self._lock:
            while len(self._open) > count:
                self._open.popitem(last=False)


READERS = Readers()  # one for all sources: the limit of open files is the process's


def _count(paths: Sequence[str]) -> list[Shard | UnreadableShard]:
    shards: list[Shard | UnreadableShard] = []
    for path in paths:
        try:
            shards.append(_described(path, open_shard(path)))
        except UnreadableShard as error:
            shards.append(error)
    return shards


def _described(path: str, reader: array_record_module.ArrayRecordReader) -> Shard:
    return Shard(path, reader.num_records(), *buckets.about(path))


def open_file_limit() -> int:
    """The number of files that this process may have open."""
    try:
        import resource
    except ImportError:  # not on every system
        return 256
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
