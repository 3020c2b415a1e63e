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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, cast

from unified_fm.runtime import stacks
from unified_fm.runtime.link import Link

_PATIENCE = 2.0  # seconds in which the main thread may leave a start-up by itself
_STACKS = 30.0  # seconds for process 0 to have all write their stacks
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
        signum: the signal that came, or None. With several processes, the one for which all of them
            stop now; it is set in all at the same place, `requested`.
        grace_s: seconds from the signal to the end of the process.
        link: to the other processes of the run, or None; set by who joins them.
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
        self.link: Link | None = None
        self.rescue: Callable[[], bool] | None = None
        self.last_words: list[Callable[[], None]] = []
        self.folder: str | None = None
        self._came: int | None = None  # the first signal, here or in another process
        self._heard = 0  # signals, counted in the thread
        self._handled = 0  # signals, counted in the main thread
        self._can_raise = False
        self._lock = threading.Lock()
        self._leavable = False
        self._taken = False
        self._left = threading.Event()
        self._before: dict[int, Any] = {}
        self._ends = cast(tuple[socket.socket, socket.socket], None)  # set while entered

    def __enter__(self) -> "Interruption":
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._before_fd = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
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

    @property
    def processes(self) -> int:
        """Of the run. Only one that is alone leaves a phase by itself: others would wait for it."""
        return 1 if self.link is None else self.link.place.count

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer on all processes."""
        if self.link is not None:
            self.link.at_step(step)
            self.signum = self.link.stops()
        return self.signum is not None

    def agree(self, name: str, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Has all processes compare what they found; see `Link.agree`. One alone asks for nothing.

        Raises:
            Refused: a process differs.
        """
        if self.link is not None:
            self.link.agree(name, facts())

    def stopping(self, signum: int) -> None:
        """Takes note, in another thread, that another process was asked to stop."""
        self._came = self._came or signum
        with contextlib.suppress(OSError):
            self._ends[1].send(b"\0")

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

    def leave(self, code: int) -> NoReturn:
        """Ends the process from the main thread.

        After a signal or an error, and if the process is alone, it waits for no other thread: one
        that is stuck in a read would keep it for ever. With several processes, JAX has them wait
        for each other at the end; not where one failed and the others may not come.
        """
        if self.link is not None:
            together = code in (0, self.exit_code)
            self.link.leave(wait=0.0 if together else _STACKS)
            if not together:
                _exit(code)
        elif self.signum is not None or code == 1:
            _exit(code)
        sys.exit(code)

    def tell(self, error: Exception) -> None:
        """Tells the other processes that this one ends with an error."""
        if self.link is not None:
            self.link.fail(f"{type(error).__name__}: {error}")

    def stalled(self, why: str) -> None:
        """Ends the run, from another thread, because it does not go on: all say where they are."""
        if self.link is not None:
            self.link.stalled(why)
            time.sleep(_STACKS)  # it has all processes write their stacks, and ends this one
        self.show_stacks(why)
        self.abandon(1)

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
        self._note(signum)
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
                self._note(signum)
                name = signal.Signals(signum).name
                _say(f"\n{name}: saving, then exiting (again: at once)")
            if deadline is None and self._came is not None:
                deadline = time.monotonic() + _RESERVE * self.grace_s
                threading.Thread(target=self._help, name="rescue", daemon=True).start()

    def _note(self, signum):
        self._came = self._came or signum
        if self.link is None:
            self.signum = self.signum or signum
        else:
            self.link.want_stop(signum)

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
                self.end(self.exit_code)
            self.end(self.exit_code if cast(Callable[[], bool], self.rescue)() else 1)

    def _too_late(self):
        name = signal.Signals(self._came).name
        self.show_stacks(f"{name}: the run did not end within the grace of {self.grace_s:.0f} s")
        _log.error("ended without a further save; --grace_s=SECONDS waits longer")
        self.end(128 + cast(int, self._came))

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
