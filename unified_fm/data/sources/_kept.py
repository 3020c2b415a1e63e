"""What is costly to open, kept for the next record: in every thread, and in every process its own.

A source may be sent to worker processes: it holds names and numbers only, and what is open lies
here, once for a process. A process that was forked begins with nothing open.
"""

import collections
import os
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from unified_fm import buckets
from unified_fm.data import shards

_LOOKED = 60.0  # seconds after which a file in a bucket is looked at again: each time is a request
_FILES = 1024  # descriptors kept at most, or an eighth of the limit of open files
T = TypeVar("T")


class Kept(Generic[T]):
    """What was used last, up to a limit; safe to call from many threads.

    Nothing is closed here: what is let go is closed when the last thread that reads has done with
    it. Make one for a module, never one for a source.

    Args:
        limit: of the sum of weights; the thing used last is kept in any case.
        weight: of a thing; by default 1.
        one_by_one: whether only one thread at a time makes a thing, so that memory has a bound.
    """

    def __init__(
        self,
        limit: Callable[[], int],
        weight: Callable[[T], int] = lambda _: 1,
        *,
        one_by_one: bool = False,
    ):
        self._limit, self._weight, self._one_by_one = limit, weight, one_by_one
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._things: collections.OrderedDict[Hashable, tuple[T, int]] = collections.OrderedDict()
        self._sum = 0
        self._lock, self._making = threading.Lock(), threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this key, made if it is not there; what `make` raises is passed on."""
        found = self._find(key)
        if found is not None:
            return found
        if not self._one_by_one:
            return self._keep(key, make())
        with self._making:
            found = self._find(key)  # another thread may have made it meanwhile
            return self._keep(key, make()) if found is None else found

    def forget(self) -> None:
        """Lets go of everything."""
        with self._lock:
            self._things.clear()
            self._sum = 0

    def _find(self, key: Hashable) -> T | None:
        with self._lock:
            if key not in self._things:
                return None
            self._things.move_to_end(key)
            return self._things[key][0]

    def _keep(self, key: Hashable, thing: T) -> T:
        weight = self._weight(thing)
        with self._lock:
            if key in self._things:
                self._sum -= self._things.pop(key)[1]
            self._things[key] = thing, weight
            self._sum += weight
            while self._sum > self._limit() and len(self._things) > 1:
                self._sum -= self._things.popitem(last=False)[1][1]
        return thing


class Stamped(NamedTuple):
    """A file as it was when the source was opened.

    Attributes:
        path: of the file.
        size: in bytes.
        changed: its time of change in nanoseconds; in a bucket, see `buckets.About`.
    """

    path: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: str | os.PathLike) -> "Stamped":
        """Looks at the file. Raises OSError where it is not there."""
        return cls(os.fspath(path), *buckets.about(path))

    def check(self) -> None:
        """Refuses a file that is not what it was.

        Raises:
            shards.ChangedShard: its size or its time is another one.
        """
        self._compare(*buckets.about(self.path, now=True))

    def _compare(self, size: int, changed: int) -> None:
        now = Stamped(self.path, size, changed)
        if now != self:
            raise shards.ChangedShard(
                f"{self.path} was replaced: {self.size:,} bytes when it was opened, {now.size:,}"
                " now, and another time of change. Start again: a run continues only on the data"
                " that it began with"
            )

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`; fewer where the file ends before.

        Raises:
            shards.ChangedShard: another file has taken its place.
            shards.OutOfDescriptors: the process may not open another file.
            OSError: it cannot be read.
        """
        if buckets.holds(self.path):
            _LOOKED_AT.get((self, time.monotonic() // _LOOKED), lambda: self.check() or True)
            return buckets.read(self.path, start, end)
        opened = _OPEN.get(self, lambda: _Descriptor(self))
        about = os.fstat(opened.number)
        self._compare(about.st_size, about.st_mtime_ns)  # it may be written to while it is open
        return os.pread(opened.number, end - start, start)


class _Descriptor:
    """An open file, closed with its last user."""

    number = -1

    def __init__(self, file: Stamped):
        file.check()
        try:
            self.number = os.open(file.path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in shards.NO_DESCRIPTOR:
                raise
            _OPEN.forget()
            self.number = _opened_again(file.path)

    def __del__(self):
        if self.number >= 0:
            os.close(self.number)


def _opened_again(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in shards.NO_DESCRIPTOR:
            raise
        raise shards.out_of_descriptors(error.errno, path) from error


_LOOKED_AT: Kept[bool] = Kept(lambda: 1 << 17)
_OPEN: Kept[Any] = Kept(lambda: max(1, min(_FILES, shards.open_file_limit() // 8)))
