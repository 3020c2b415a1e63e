"""A result that is made ahead, in a thread, while something else goes on."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Ahead(Generic[_T]):
    """Calls a function in a thread of its own, in the order in which results are asked for.

    No more than one result lies ready. For one thread that asks; `close` ends the other.
    """

    def __init__(self, make: Callable[[], _T]):
        """Starts nothing yet.

        Args:
            make: the function; what it raises is raised where its result is got.
        """
        self._make = make
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._asked = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def ask(self) -> None:
        """Has the next result made, unless it is being made already."""
        if self._asked:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
            self._thread.start()
        self._asked = True
        self._wanted.put(True)

    def get(self) -> _T:
        """The next result; waits for it, and asks for it if nobody has.

        Raises:
            RuntimeError: it was closed. Whatever the function raised.
        """
        self.ask()
        while True:
            try:
                made, error = self._made.get(timeout=5)
                break
            except queue.Empty:
                if self._closed.is_set():
                    raise RuntimeError(
                        "nothing is made ahead any more: close() was called"
                    ) from None
        self._asked = False
        if error is not None:
            raise error
        return made

    def close(self, timeout: float = 5.0) -> None:
        """Makes no more, and waits some seconds for what is being made."""
        self._closed.set()
        self._wanted.put(False)
        if self._thread is not None:
            self._thread.join(timeout)

    def _work(self) -> None:
        while self._wanted.get() and not self._closed.is_set():
            self._made.put(self._tried())

    def _tried(self) -> tuple[Any, BaseException | None]:
        try:
            return self._make(), None
        except BaseException as error:  # told to who asked, whose thread can act on it
            return None, error
