"""The living connection of the processes of one run, over the wires of the roll call.

A closed connection shows at once that a process is gone, silence that its host is: then the others
say so and end, where a collective would wait or abort. The same wires carry who wants to stop, so
that all stop after the same step, and the comparison of what each has found (`agree`).

Process 0 is the hub. All messages are handled by one thread in each process; the main thread only
leaves words in a queue, which is safe in a signal handler too.
"""

import contextlib
import logging
import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from unified_fm.runtime import stacks
from unified_fm.runtime.processes import Place, alike
from unified_fm.runtime.wire import Broken, Wire

_BEAT = 1.0  # seconds between two signs of life
_SILENCE = 60.0  # seconds without one: the host is gone or frozen, though the connection stands
_LEAVE = 5.0  # seconds for the last words
# After another's error: it is mostly everybody's, and then each says it and ends by itself.
_OWN_END = 5.0
_log = logging.getLogger(__name__)


class Link:
    """This process among the others.

    Attributes:
        place: which process this is.
    """

    def __init__(
        self,
        place: Place,
        wires: Mapping[int, Wire],
        *,
        end: Callable[[int], Any] = os._exit,
        show: Callable[[str], Any] = stacks.show,
        on_stop: Callable[[int], Any] = lambda signum: None,
        silence: float | None = None,
    ):
        """Starts listening.

        Args:
            place: of this process.
            wires: of the roll call.
            end: ends the process with a code, from any thread, whatever its main thread does.
            show: writes the stacks of all threads below a line.
            on_stop: called with the signal, in another thread, when any process was asked to stop.
            silence: seconds after which a process that says nothing is lost; by default a minute.
        """
        self.place = place
        self._wires = dict(wires)
        self._end = end
        self._show = show
        self._on_stop = on_stop
        self._silence = _SILENCE if silence is None else silence
        self._heard = dict.fromkeys(wires, time.monotonic())
        self._steps: dict[int, int] = {}
        self._left: set[int] = set()  # those that ended well
        self._changed = threading.Condition()
        # Written by the thread, read by the main thread, under `_changed`.
        self._values: dict[str, list[Any]] = {}
        self._signum: int | None = None
        self._stop_at: int | None = None
        self._asked_stop = False
        self._calls = 0  # of `stops`, by the main thread
        # Of the hub.
        self._given: dict[str, dict[int, Any]] = {}
        self._counts: dict[int, int] | None = None
        self._words: queue.SimpleQueue = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        for index, wire in self._wires.items():
            self._selector.register(wire, selectors.EVENT_READ, index)
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._thread.start()

    # What the main thread calls.

    def agree(self, name: str, facts: Mapping[str, Any]) -> None:
        """Compares facts among all processes; every one calls it with the same name.

        Raises:
            Refused: in all processes, if one differs from process 0; says which and how.
        """
        self._say({"give": name, "value": dict(facts)})
        with self._changed:
            while name not in self._values:
                self._changed.wait(0.2)
            found = self._values.pop(name)
        alike(found)

    def at_step(self, step: int) -> None:
        """Tells the others how far this process is, with its next sign of life."""
        self._steps[self.place.index] = step

    def want_stop(self, signum: int) -> None:
        """Asks all to stop after the same step. For signal handlers; returns at once."""
        self._say({"stop": int(signum)})

    def stops(self) -> int | None:
        """Whether to stop now; all processes call it equally often, and get the same answer.

        Returns:
            The signal that asked for it, or None.
        """
        with self._changed:
            self._calls += 1
            while self._asked_stop and self._stop_at is None:  # which count, is being found out
                self._changed.wait(0.2)
            reached = self._stop_at is not None and self._calls >= self._stop_at
            return self._signum if reached else None

    def fail(self, why: str) -> None:
        """Tells the others that this process ends with an error; they end too."""
        self._say({"failed": why})
        self._close(wait=2 * _OWN_END)

    def leave(self, *, wait: float = 0.0) -> None:
        """Says good-bye: from here on nobody is missed.

        Args:
            wait: seconds for which process 0 waits until the others have left too. It keeps the
                service of JAX, without which they would be aborted; needed where JAX does not wait.
        """
        self._say({"bye": True})
        self._close(wait=wait)

    def stalled(self, why: str) -> None:
        """Has every process write the stacks of its threads and its step, then end with 1."""
        self._say({"stalled": why})

    def settle(self, seconds: float = 2 * _OWN_END) -> None:
        """Gives the news that another process is lost time to arrive, and to end this one."""
        time.sleep(seconds)

    # The thread.

    def _say(self, message):
        """Leaves a word to the hub, or what it says to itself."""
        self._words.put(message)
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake.send(b".")

    def _run(self):
        try:
            self._listen()
        except Exception:  # a fault of this module must not leave a process that hears nobody
            _log.exception("the connection to the other workers failed")
            self._leave_at_once(1)
        finally:
            self._selector.close()
            self._wake.close()
            self._woken.close()

    def _listen(self):
        beat = 0.0
        while not self._closing.is_set():
            for key, _ in self._selector.select(_BEAT / 2):
                if key.fileobj is self._woken:
                    self._woken.recv(2**12)
                else:
                    self._hear(key.data, key.fileobj)
            self._send_words()
            now = time.monotonic()
            if now - beat >= _BEAT:
                beat = now
                self._to_all({"beat": self._steps.get(self.place.index, 0)}, here=False)
                self._look_for_silence(now)

    def _send_words(self):
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._words.get_nowait()
                if self.place.index == 0:
                    self._as_hub(0, message)
                else:
                    self._to(0, message)
                if "bye" in message or "failed" in message:
                    self._closing.set()

    def _hear(self, index, wire):
        try:
            messages = wire.receive()
        except Broken as error:
            self._selector.unregister(wire)
            wire.close()
            if index not in self._left:
                self._as_hub_or_here(index, str(error))
            return
        self._heard[index] = time.monotonic()
        for message in messages:
            if self.place.index == 0:
                self._as_hub(index, message)
            else:
                self._here(message)

    def _look_for_silence(self, now):
        for index in self._wires.keys() - self._left:
            silent = now - self._heard[index]
            if silent > self._silence:
                self._as_hub_or_here(index, f"it has given no sign of life for {silent:.0f} s")

    def _as_hub_or_here(self, index, why):
        (self._to_all if self.place.index == 0 else self._here)({"lost": index, "why": why})

    def _as_hub(self, index, message):
        """What process 0 does with the word of a process."""
        if "beat" in message:
            self._steps[index] = message["beat"]
        elif "bye" in message:
            if index == 0:
                self._to_all(message, here=False)
            self._left.add(index)
        elif "failed" in message:
            self._left.add(index)
            lost = {"lost": index, "failed": message["failed"]}
            self._to_all(lost, here=index != 0, but=index)
        elif "stalled" in message:
            steps = ", ".join(f"worker {i} at step {self._steps.get(i, 0)}" for i in self._all())
            self._to_all({"stalled": f"worker {index}: {message['stalled']} ({steps})"})
        elif "give" in message:
            given = self._given.setdefault(message["give"], {})
            given[index] = message["value"]
            if len(given) == self.place.count:
                del self._given[message["give"]]
                values = [given[i] for i in self._all()]
                self._to_all({"given": message["give"], "values": values})
        elif "stop" in message and self._counts is None:
            self._counts = {}
            self._to_all({"stopping": message["stop"], "by": index})
        elif "count" in message:
            counts = cast(dict[int, int], self._counts)
            counts[index] = message["count"]
            if len(counts) == self.place.count:
                most = max(counts.values())
                self._to_all({"stop_at": most + 1 if most else 0})

    def _here(self, message):
        """What every process does with the word of the hub."""
        if "beat" in message:
            self._steps[0] = message["beat"]
        elif "bye" in message:
            self._left.add(0)
        elif "failed" in message:
            self._left.add(message["lost"])
            later = threading.Timer(_OWN_END, self._lose, [message])
            later.daemon = True
            later.start()
        elif "lost" in message:
            self._lose(message)
        elif "stalled" in message:
            self._show(f"{message['stalled']}; this is worker {self.place.index}")
            self._leave_at_once(1)
        elif "given" in message:
            with self._changed:
                self._values[message["given"]] = message["values"]
                self._changed.notify_all()
        elif "stopping" in message:
            with self._changed:
                self._asked_stop, self._signum = True, message["stopping"]
                count = self._calls
            name = signal.Signals(message["stopping"]).name
            _log.info("%s on worker %d: all stop after the same step", name, message["by"])
            self._on_stop(message["stopping"])
            self._say({"count": count})
        elif "stop_at" in message:
            with self._changed:
                self._stop_at = message["stop_at"]
                self._changed.notify_all()
            if self._stop_at == 0:
                _log.info("stopped before the first step: nothing to save")
                self._say({"bye": True})
                self._send_words()
                self._leave_at_once(128 + cast(int, self._signum))

    def _lose(self, message):
        if self._closing.is_set():
            return
        index = message["lost"]
        if index == self.place.index:  # the hub has not heard of this one, which lives
            what = f"worker {index} (this one) was given up: {message.get('why')}"
        elif "failed" in message:
            what = f"worker {index} has ended with an error: {message['failed']}"
        else:
            at = f", which was at step {self._steps[index]}," if self._steps.get(index) else ""
            what = f"worker {index}{at} is gone: {message['why']}"
        _log.error(
            "%s. The %d workers cannot go on without it and end; the same command on all of them "
            "continues from the last complete checkpoint",
            what,
            self.place.count,
        )
        self._leave_at_once(1)

    def _leave_at_once(self, code):
        self._closing.set()
        try:
            self._wait_for_others(_LEAVE)
            for wire in self._wires.values():
                wire.close()
        finally:  # a process that cannot go on must not stay
            self._end(code)

    def _wait_for_others(self, seconds):
        """Process 0 goes last, see `leave`."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for wire in self._wires.values() if self.place.index == 0 else ():
                with contextlib.suppress(ValueError, OSError):  # closed, maybe just now
                    selector.register(wire, selectors.EVENT_READ)
            while selector.get_map() and time.monotonic() < end:
                for key, _ in selector.select(0.1):
                    try:
                        cast(Wire, key.fileobj).receive()
                    except Broken:
                        selector.unregister(key.fileobj)

    def _to(self, index, message):
        with contextlib.suppress(Broken):  # noticed when it is read from
            self._wires[index].send(message)

    def _to_all(self, message, *, here=True, but=None):
        for index in self._wires:
            if index not in self._left and index != but:
                self._to(index, message)
        if here:
            self._here(message)

    def _all(self):
        return range(self.place.count)

    def _close(self, wait=0.0):
        self._thread.join(_LEAVE)
        self._closing.set()
        self._wait_for_others(wait)
        for wire in self._wires.values():
            wire.close()
