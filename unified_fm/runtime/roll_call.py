"""The roll call: before the processes of a run trust each other, all are there and alike.

Process 0 listens on the coordinator's port, the others connect and say who they are and what they
are about to do. When all are there and nobody differs, the port is free for JAX and the connections
stay, to notice who gets lost (`link`). Otherwise every process that is there gets the same
sentence, instead of a library waiting in silence and then aborting.
"""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm.runtime.processes import Place, Refused, alike
from unified_fm.runtime.wire import Broken, Wire

_HELLO = "unified_fm"
_WORD_EVERY = 5.0  # seconds between two words of process 0 on who is missing
_SLACK = 15.0  # seconds that a process waits longer for the verdict than process 0 for others


def hold(place: Place, facts: Mapping[str, Any], *, timeout: float) -> dict[int, Wire]:
    """Waits until all processes of the run are there, and compares them.

    Args:
        place: of this process.
        facts: what must be the same in all, {name: JSON value}.
        timeout: seconds to wait for the others.

    Returns:
        The connections: in process 0 {index: wire} of all others, elsewhere {0: wire}.

    Raises:
        Refused: some are missing after `timeout`, or a process differs; says which and how.
    """
    hello = {
        "hello": _HELLO,
        "index": place.index,
        "count": place.count,
        "who": f"{socket.gethostname()}, process {os.getpid()}",
        "facts": facts,
    }
    if place.index:
        return {0: _join(place, hello, timeout)}
    return _Roll(place, hello).call(timeout)


class _Roll:
    """Process 0's side."""

    def __init__(self, place: Place, hello: dict[str, Any]):
        self._place = place
        self._hellos = {0: hello}
        self._wires: dict[int, Wire] = {}
        self._unknown: set[Wire] = set()
        self._selector = selectors.DefaultSelector()

    def call(self, timeout: float) -> dict[int, Wire]:
        listener = _listen(self._place)
        self._selector.register(listener, selectors.EVENT_READ)
        end, word = time.monotonic() + timeout, time.monotonic() + _WORD_EVERY
        try:
            while len(self._hellos) < self._place.count:
                for key, _ in self._selector.select(0.2):
                    if key.fileobj is listener:
                        self._add(Wire(listener.accept()[0]))
                    else:
                        self._hear(key.fileobj)
                if time.monotonic() > end:
                    raise Refused(self._missing(timeout))
                if time.monotonic() > word:
                    self._tell({"word": self._count()})
                    word = time.monotonic() + _WORD_EVERY
            alike([self._hellos[i]["facts"] for i in range(self._place.count)])
        except Refused as refusal:
            self._tell({"refused": str(refusal)})
            for wire in self._wires.values():
                wire.close()
            raise
        finally:
            listener.close()  # first of all: JAX takes the port over
            self._selector.close()
            for wire in self._unknown:
                wire.close()
        self._tell({"complete": self._place.count})
        return self._wires

    def _add(self, wire):
        self._unknown.add(wire)
        self._selector.register(wire, selectors.EVENT_READ)

    def _hear(self, wire):
        try:
            for message in wire.receive():
                self._greet(wire, message)
        except Broken:  # a stranger, or a worker that was ended while it waited
            self._forget(wire)

    def _greet(self, wire, hello):
        index, why = hello.get("index"), None
        if hello.get("hello") != _HELLO or not isinstance(hello.get("facts"), dict):
            raise Broken("a stranger")
        if hello.get("count") != self._place.count:
            why = (
                f"worker {index} was started as one of {hello.get('count')}, worker 0 as one of "
                f"{self._place.count}: give all the same N in --process=I/N"
            )
        elif index in self._hellos:
            why = (
                f"there are two workers {index}: {self._hellos[index]['who']} and "
                f"{hello.get('who')}. Give each its own I in --process=I/N"
            )
        elif index not in range(self._place.count):
            raise Broken("a stranger")
        if why:
            with contextlib.suppress(Broken):
                wire.send({"refused": why})
            self._forget(wire)
            return
        self._hellos[index] = hello
        self._wires[index] = wire
        self._unknown.discard(wire)

    def _forget(self, wire):
        for index, other in list(self._wires.items()):
            if other is wire:
                del self._wires[index], self._hellos[index]
        self._unknown.discard(wire)
        self._selector.unregister(wire)
        wire.close()

    def _tell(self, message):
        for wire in self._wires.values():
            with contextlib.suppress(Broken):
                wire.send(message)

    def _count(self):
        return _count(sorted(set(range(self._place.count)) - set(self._hellos)), self._place.count)

    def _missing(self, timeout):
        return (
            f"{self._count()}; waited {timeout:g} s. Start this on all {self._place.count} workers "
            f"at the same time; --start_timeout=SECONDS waits longer, --nodistributed runs alone"
        )


def _count(missing: Sequence[int], count: int) -> str:
    names = ", ".join(map(str, missing))
    there = count - len(missing)
    return f"{there} of {count} workers {'is' if there == 1 else 'are'} here; missing: {names}"


def _listen(place: Place) -> socket.socket:
    """Listens on the port of the coordinator, on all addresses of this host, as JAX will."""
    double = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if double else socket.AF_INET
    try:
        return socket.create_server(
            ("", place.port), family=family, dualstack_ipv6=double, backlog=place.count + 8
        )
    except OSError as error:
        raise Refused(
            f"port {place.port}, on which the workers meet, cannot be opened on this host "
            f"({error.strerror or error}): is another run using it? Give another --coordinator"
        ) from error


def _join(place: Place, hello: dict[str, Any], timeout: float) -> Wire:
    """Finds process 0 and waits for its verdict; a process 0 that is started again is found."""
    end = time.monotonic() + timeout
    word, why = "", "nobody answers"
    while time.monotonic() < end + (_SLACK if word else 0.0):
        try:
            connection = socket.create_connection((place.host, place.port), timeout=2.0)
        except (OSError, UnicodeError) as error:  # nobody listens yet; or this is no name
            why = getattr(error, "strerror", None) or str(error)
            time.sleep(0.2)
            continue
        wire, word = Wire(connection), "it has not said who is missing"
        try:
            wire.send(hello)
            while time.monotonic() < end + _SLACK:
                for message in _arrived(wire):
                    if "refused" in message:
                        raise Refused(str(message["refused"]))
                    if "complete" in message:
                        return wire
                    word = str(message.get("word", word))
        except Broken as error:
            why, word = str(error), ""
            time.sleep(0.2)
        except Refused:
            wire.close()
            raise
        wire.close()
    where = f"{place.host}:{place.port}"
    found = f"worker 0 is there at {where}, but {word}" if word else f"{where}: {why}"
    here = "" if word else f"worker {place.index} is here; missing: 0. "
    raise Refused(
        f"{here}{found}; waited {timeout:g} s. Start this on all {place.count} workers at the same "
        f"time; --start_timeout=SECONDS waits longer, --nodistributed runs alone"
    )


def _arrived(wire: Wire) -> list[dict[str, Any]]:
    with selectors.DefaultSelector() as selector:
        selector.register(wire, selectors.EVENT_READ)
        return wire.receive() if selector.select(0.5) else []
