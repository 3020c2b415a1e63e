"""Processes of a run, played by threads of this one over real sockets."""

import concurrent.futures
import socket

from unified_fm.runtime import roll_call
from unified_fm.runtime.processes import Place


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def meet(count, *, here=None, facts=None, timeout=30, counts=None):
    """Holds a roll call; returns {index: wires, or the refusal} of those that are `here`."""
    port = free_port()
    here = range(count) if here is None else here
    with concurrent.futures.ThreadPoolExecutor(len(here)) as pool:
        futures = {}
        for place, index in enumerate(here):
            where = Place("127.0.0.1", port, index, (counts or {}).get(place, count))
            said = (facts or {}).get(index, {"config.seed": 0})
            futures[place] = pool.submit(roll_call.hold, where, said, timeout=timeout)
        concurrent.futures.wait(futures.values())
    return {place: f.exception() or f.result() for place, f in futures.items()}
