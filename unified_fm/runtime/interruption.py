"""SIGTERM and Ctrl-C: save and exit, within a grace, in whatever phase; the second exits at once.

A flag that is read between two steps is not enough: preemption also comes while the step compiles,
while an evaluation runs or while the loop waits for data. In those phases, which change no state,
the handler raises. Nor is a handler enough: Python runs it in the main thread only, which does not
listen while it compiles or reads in C. So a thread of its own hears of every signal (through
`signal.set_wakeup_fd`). Where the main thread does not leave a phase that it could leave, the
thread saves in its stead; and when the grace is over, it ends the process.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from unified_fm.runtime import stacks

_PATIENCE = 2.0  # seconds in which the main thread may leave a start-up by itself
_RESERVE = 0.9  # of the grace: the process is gone before the scheduler kills it
_log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """A signal came in a phase that could be left.

    No `Exception`: libraries between the handler and the loop catch those and go on, or report a
    damaged file.
    """


class Interruption:
    """Listens to SIGTERM and SIGINT while it is entered.

    Attributes:
        signum: the signal that came, or None.
        grace_s: seconds from the signal to the end of the process.
        processes: of the run; set by who joins them. Only a process that is alone leaves a phase by
            itself: the others would wait for it.
        rescue: saves what is not saved yet, and returns whether all is safe; None where there is
            nothing to save. It is called in another thread while the main thread is stuck in a
            phase that changes no state.
        last_words: what is to be done before the process ends without the main thread: to release
            a lock.
        folder: where `stacks.txt` is written, or None.
    """

    def __init__(self, grace_s: float = 30.0) -> None:
        self.signum: int | None = None
        self.grace_s = grace_s
        self.processes = 1
        self.rescue: Callable[[], bool] | None = None
        self.last_words: list[Callable[[], None]] = []
        self.folder: str | None = None
        self._heard = 0  # signals, counted in the thread
        self._handled = 0  # signals, counted in the main thread
        self._can_raise = False
        self._lock = threading.Lock()
        self._leavable = False
        self._taken = False
        self._left = threading.Event()
        self._before: dict[int, object] = {}
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> "Interruption":
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._before_fd = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        # With several processes JAX takes SIGTERM over when they join, so that all stop at the
        # same step; until then it is ours.
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._handle)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.closing()
        self._left.set()
        signal.set_wakeup_fd(self._before_fd)
        for signum, before in self._before.items():
            signal.signal(signum, before)
        self._before.clear()
        self._ends[1].close()
        self._thread.join(timeout=10)
        self._ends[0].close()

    @property
    def exit_code(self) -> int:
        """The exit code of the process: 128 + signal, or 0."""
        return 0 if self.signum is None else 128 + self.signum

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on all processes."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signum = self.signum or signal.SIGTERM
        return self.signum is not None

    @contextlib.contextmanager
    def leavable(self) -> Iterator[None]:
        """A phase that changes no state of the run: a signal leaves it with `Interrupted`.

        Whatever else is raised after a signal came is what a library made of it, so `Interrupted`
        takes its place.
        """
        alone = self.processes == 1
        if self.signum is not None and alone:
            raise Interrupted
        try:
            self._set_leavable(True)
            self._can_raise = alone
            yield
        except Exception as error:
            if self.signum is not None and alone:
                raise Interrupted from error
            raise
        finally:
            self._can_raise = False
            self._set_leavable(False)
        if self.signum is not None and alone:
            raise Interrupted

    def closing(self) -> None:
        """From here on the main thread closes the run itself, and no other thread may."""
        self._can_raise = False
        self._set_leavable(False)

    def take_over(self) -> bool:
        """Asks, in another thread, to act in the stead of the main thread, until the process ends.

        Returns:
            Whether the main thread is in a phase that changes no state. It stays there for good.
        """
        with self._lock:
            self._taken = self._taken or self._leavable
            return self._taken

    def abandon(self, code: int) -> None:
        """Ends the process, from another thread, whatever the main thread does.

        It saves first if the main thread is in a phase that changes no state; a save that takes
        longer than the grace is given up.
        """
        if self.processes == 1 and self.rescue is not None and self.take_over():
            saver = threading.Thread(target=self.rescue, daemon=True)
            saver.start()
            saver.join(timeout=self.grace_s)
        self.end(code)

    def end(self, code: int) -> None:
        """Ends the process without the main thread: the last words, then the exit."""
        speaker = threading.Thread(target=self._speak, daemon=True)
        speaker.start()
        speaker.join(timeout=2)  # a lock on a dead file system is not worth more
        _exit(code)

    def leave(self, code: int) -> None:
        """Ends the process from the main thread.

        After a signal or an error, and if the process is alone, it waits for no other thread: one
        that is stuck in a read would keep it for ever.
        """
        if self.processes == 1 and (self.signum is not None or code == 1):
            _exit(code)
        sys.exit(code)

    def show_stacks(self, why: str) -> None:
        """Writes the stacks of all threads to the log and to `stacks.txt`."""
        stacks.show(why, self.folder)

    def _set_leavable(self, value: bool) -> None:
        with self._lock:
            self._leavable = value
            taken = self._taken
        if taken and threading.current_thread() is threading.main_thread():
            threading.Event().wait()  # another thread ends the process

    def _handle(self, signum, frame):
        """Runs in the main thread, between two instructions; it must not take the lock."""
        del frame
        self._handled += 1
        if self._handled > 1:
            _again(signum)
        self.signum = self.signum or signum
        if self._can_raise:
            self._can_raise = False
            raise Interrupted

    def _listen(self):
        """Runs in the thread: hears of signals, and ends what does not end."""
        deadline = None
        while not self._left.is_set():
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._ends[0]], [], [], wait)
            if self._left.is_set():
                return
            if not ready:
                self._too_late()
                return
            for signum in self._received():
                self._heard += 1
                if self._heard > 1:
                    _again(signum)
                self.signum = self.signum or signum
                name = signal.Signals(signum).name
                _say(f"\n{name}: saving, then exiting (again: at once)")
                deadline = time.monotonic() + _RESERVE * self.grace_s
                threading.Thread(target=self._help, name="rescue", daemon=True).start()

    def _received(self):
        with contextlib.suppress(BlockingIOError):
            return [number for number in self._ends[0].recv(64) if number in self._before]
        return []

    def _help(self):
        """Acts for a main thread that is in a leavable phase and does not leave it."""
        started = time.monotonic()
        while not self._left.wait(0.05):
            nothing = self.rescue is None
            patience = min(_PATIENCE, self.grace_s / 10) if nothing else self.grace_s / 4
            if time.monotonic() - started < patience or self.processes > 1 or not self.take_over():
                continue
            name = signal.Signals(self.signum).name
            self.show_stacks(f"{name}: the main thread did not come back within {patience:.1f} s")
            if nothing:
                _log.info("stopped: there was nothing to save yet")
                self.end(128 + self.signum)
            self.end(128 + self.signum if self.rescue() else 1)

    def _too_late(self):
        name = signal.Signals(self.signum).name
        self.show_stacks(f"{name}: the run did not end within the grace of {self.grace_s:.0f} s")
        _log.error("ended without a further save; --grace_s=SECONDS waits longer")
        self.end(128 + self.signum)

    def _speak(self):
        for words in self.last_words:
            with contextlib.suppress(Exception):
                words()


def _again(signum):
    _say(f"\n{signal.Signals(signum).name} again: exiting at once")
    os._exit(128 + signum)


def _say(text):
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)


def _exit(code):
    with contextlib.suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
