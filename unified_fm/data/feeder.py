"""The background thread that has the next batches ready, whoever makes their examples."""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from unified_fm.data.loader import Batch, Loader
from unified_fm.data.workers import Workers

_AHEAD = 2  # batches of every stream that lie ready


class _Source(Protocol):
    def batches(self) -> Iterator[dict[str, Batch]]: ...

    def close(self) -> None: ...


class Feeder:
    """The thread and its queue. It does not know `Streams`, so that a forgotten one is collected.

    Attributes:
        source: of the batches: threads of this process, or `Workers`.
    """

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        samples: Mapping[str, int],
        processes: int,
        patience: float,
    ):
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.source: _Source = (
            Workers(loaders, samples, processes=processes, patience=patience, stop=self._stop)
            if processes
            else _Threads(loaders, samples)
        )
        self._thread = threading.Thread(
            target=_feed, args=(self.source, self._queue, self._stop), name="streams", daemon=True
        )
        self._thread.start()

    def get(self) -> dict[str, Batch]:
        """The next batch of every stream.

        Raises:
            Exception: what went wrong where they are made, at every further call too.
            RuntimeError: `close` was called meanwhile.
        """
        if self._error is not None:
            raise self._error
        while True:
            try:
                item = self._queue.get(timeout=5)
                break
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise RuntimeError(
                        "the thread that loads the batches has ended, with neither a batch nor an"
                        " error: close() was called while a batch was waited for"
                    ) from None
        if isinstance(item, BaseException):
            self._error = item
            raise item
        return item

    def close(self) -> None:
        """Ends the thread, and what makes the batches."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=30)


class _Threads:
    """Endless batches of several streams from threads of this process."""

    def __init__(self, loaders: Mapping[str, Loader], samples: Mapping[str, int]):
        self._sources: dict[str, Any] = {
            name: loader.batches(samples[name]) for name, loader in loaders.items()
        }

    def batches(self) -> Iterator[dict[str, Batch]]:
        while True:
            yield {name: next(source) for name, source in self._sources.items()}

    def close(self) -> None:
        for source in self._sources.values():
            source.close()


def _feed(source: _Source, out: queue.Queue[Any], stop: threading.Event) -> None:
    try:
        batches = source.batches()
        while not stop.is_set():
            _put(next(batches), out, stop)
    except BaseException as error:  # told to the consumer, whose thread can act on it
        _put(error, out, stop)
    finally:
        source.close()


def _put(item: Any, out: queue.Queue[Any], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return out.put(item, timeout=0.1)
        except queue.Full:
            continue
