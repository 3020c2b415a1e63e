"""All records of a job, read by several processes; can be stopped and gone on with.

Records are cut into parts of the same size whatever the number of processes, and what is found is
joined in their order, so the result does not depend on it. A record that ends its process (a
decoder that crashes, no more memory) is found, by reading its part again in ever smaller ones, and
is a finding like others.
"""

import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TextIO

from unified_fm.data.processes import end_with
from unified_fm.doctor import findings
from unified_fm.doctor.findings import Findings
from unified_fm.doctor.reading import Job, Reading

PART = 64  # records
_SAVE_EVERY = 15.0  # seconds between two states, at least
_SAVE_SHARE = 20  # ... and so many times as long as one takes to write
ENDED = "the process ended while reading it (a crash, or no memory)"  # so it is never read again


class Stopped(Exception):
    """The check was told to stop; the next one goes on."""


_reading: Reading | None = None  # of a process of the pool


def read_all(
    reading: Reading,
    fingerprint: dict[str, Any],
    *,
    processes: int,
    state: Path | None = None,
    say: Callable[[int, int], None] = lambda done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> Findings:
    """Everything that is found in the records of a job.

    Args:
        reading: the job, opened here.
        fingerprint: of job and data; a state of another one is not gone on with.
        processes: that read; 0: this one.
        state: a file in which the findings so far are kept, and all at the end, so that the next
            call goes on with them. Whoever has written down what they come to removes it.
        say: is told how many records are done.
        stop: is asked whether to stop, whenever what was found is whole.

    Raises:
        Stopped: it was to stop; the state is written, as before any other error.
    """
    found, done = _resumed(state, fingerprint)
    say(done, reading.records)
    parts = [
        (start, min(start + PART, reading.records)) for start in range(done, reading.records, PART)
    ]
    saved, took = time.monotonic(), 0.0

    def save() -> None:
        if state is not None and done:
            findings.save(state, found, {"fingerprint": fingerprint, "done": done})

    try:
        with contextlib.closing(_results(reading, parts, processes)) as results:
            for (_, end), part in zip(parts, results, strict=True):
                found.join(part)
                done = end
                say(done, reading.records)
                if done < reading.records and stop():
                    raise Stopped(f"stopped after {done:,} of {reading.records:,} records")
                if time.monotonic() - saved > max(_SAVE_EVERY, _SAVE_SHARE * took):
                    began = time.monotonic()
                    save()
                    saved = time.monotonic()
                    took = saved - began
    except Exception:  # a second Ctrl-C is none: it may come when a part is half joined
        save()
        raise
    save()
    return found


class Progress:
    """Says on a stream how far it is, at which rate, and how long it will take.

    On a terminal in one line; else in a line each 10 seconds.
    """

    def __init__(self, what: str, out: TextIO | None = None):
        self._out = sys.stderr if out is None else out
        self._what, self._every = what, 0.3 if self._out.isatty() else 10.0
        self._began = self._last = time.monotonic()
        self._first: int | None = None  # done before this call

    def __call__(self, done: int, of: int) -> None:
        """Says it, unless it has been said just now."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        elif now - self._last < self._every and done < of:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = f", {duration((of - done) / rate)} to go" if 0 < done < of and rate else ""
        share = f" ({100 * done / max(of, 1):.0f} %)"
        line = f"{self._what}: {done:,} of {of:,} records{share}, {rate:,.0f} a second{left}"
        end = "\n" if done >= of or not self._out.isatty() else ""
        print(
            f"\r\x1b[K{line}" if self._out.isatty() else line, end=end, file=self._out, flush=True
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: "42 s", "3 min 10 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def _resumed(state: Path | None, fingerprint: dict[str, Any]) -> tuple[Findings, int]:
    """What an interrupted call has found, and how many records it had read."""
    if state is None or not state.exists():
        return Findings(), 0
    try:
        found, about = findings.load(state)
    except (OSError, ValueError) as error:
        print(f"begins anew: {error}", file=sys.stderr)
        return Findings(), 0
    if about.get("fingerprint") != fingerprint:
        print(f"begins anew: {state} is of other data or other settings", file=sys.stderr)
        return Findings(), 0
    return found, int(about["done"])


def _results(
    reading: Reading, parts: list[tuple[int, int]], processes: int
) -> Generator[Findings, None, None]:
    """The findings of all parts, in their order."""
    if processes == 0:
        for part in parts:
            yield reading.read(*part)
        return
    at = 0
    while at < len(parts):
        done = 0
        try:
            for found in _pooled(reading.job, parts[at:], min(processes, len(parts) - at)):
                yield found
                done += 1
        except BrokenProcessPool:
            _check_opens(reading.job)
            yield _carefully(reading, *parts[at + done])  # it was this one, or one just behind it
            done += 1
        at += done


def _pooled(
    job: Job, parts: list[tuple[int, int]], processes: int
) -> Generator[Findings, None, None]:
    pool = concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),  # JAX's threads do not survive a fork
        initializer=_open,
        initargs=(job, os.getpid()),
    )
    waiting: list[concurrent.futures.Future[Findings]] = []
    try:
        for part in parts:
            waiting.append(pool.submit(_read, *part))
            if len(waiting) >= 4 * processes:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


def _carefully(reading: Reading, start: int, stop: int) -> Findings:
    """Reads a part in a process of its own, and if that ends, its halves."""
    try:
        (found,) = _pooled(reading.job, [(start, stop)], 1)
        return found
    except BrokenProcessPool:
        found = Findings()
    if stop - start == 1:
        found.add("records", "read")
        found.add("records", "failed")
        found.add("failed", ENDED)
        found.name(ENDED, reading.named(start, ""))
        return found
    middle = (start + stop) // 2
    found.join(_carefully(reading, start, middle))
    found.join(_carefully(reading, middle, stop))
    return found


def _check_opens(job: Job) -> None:
    """Makes sure that it is records which end processes.

    Raises:
        ChildProcessError: a process ends before it reads any.
    """
    try:
        list(_pooled(job, [(0, 0)], 1))
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a process ended while it opened {job.entry.source}; what it printed stands above, if"
            " anything (else the memory may be full). --jobs=0 reads without others"
        ) from error


def _open(job: Job, parent: int) -> None:
    """Makes a process of the pool ready: Ctrl-C is for the one that has started it."""
    global _reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not SIGTERM, by which a broken pool ends it
    end_with(parent)
    logging.getLogger("unified_fm").setLevel(logging.ERROR)  # who has started it has said it
    _reading = Reading(job)


def _read(start: int, stop: int) -> Findings:
    assert _reading is not None, "the pool's initializer has run"
    return _reading.read(start, stop)
