"""A process of the loader: makes the examples that it is asked for, and says what became of them.

It is started by `workers`, with its end of a socket, and ends when the other end is closed, however
that happens. It knows neither the run nor a device. What it is sent and what it sends are tuples
whose first word says what they are; arrays go through `shared_memory`.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection, reduction
from typing import NamedTuple

import tokenizers

from unified_fm.data import processes, shared_memory
from unified_fm.data.batching import Entry
from unified_fm.data.loader import Loader
from unified_fm.data.skips import Parts, Skip, Skips
from unified_fm.data.tokenizer import Tokenizer

PROGRESS = struct.Struct("<qq")  # number of the task, place in it: written before each example


class Setup(NamedTuple):
    """What a worker has to know of a run.

    Attributes:
        entries: {stream: of the config}.
        seed: of the run.
        tokenizer: of the run, where it has one.
    """

    entries: Mapping[str, Entry]
    seed: int
    tokenizer: Tokenizer | None


def tokenizer_of(text: str) -> Tokenizer:
    """The tokenizer whose `text()` this is."""
    return Tokenizer(tokenizers.Tokenizer.from_str(text))


class Event(NamedTuple):
    """What became of one record, or of its parts; what the account `skips` is to be told.

    Attributes:
        epoch: in which it was met.
        record: its name, where there is something to say of it.
        parts: what became of its parts.
        reason: why it was not used, and `detail`; None: it was used.
    """

    epoch: int
    record: str
    parts: Parts | None
    reason: str | None = None
    detail: str = ""

    def tell(self, skips: Skips) -> None:
        """Counts it.

        Raises:
            TooManySkips: it is one too many.
        """
        if self.reason is None:
            skips.use(self.parts, record=lambda: self.record, epoch=self.epoch)
        else:
            skip = Skip(self.reason, self.detail, self.parts)
            skips.skip(skip, lambda: self.record, epoch=self.epoch)


class _Account(Skips):
    """Notes what happens, in place of counting it: what is too much is judged by the run."""

    def __init__(self, name: str):
        super().__init__(name)
        self.events: list[Event] = []

    def use(
        self, parts: Parts | None = None, *, record: Callable[[], str] = str, epoch: int = 0
    ) -> None:
        said = record() if parts is not None and parts.dropped else ""
        self.events.append(Event(epoch, said, parts))

    def table(self) -> str:
        return ""

    def skip(self, skip: Skip, record: Callable[[], str], *, epoch: int = 0) -> None:
        self.events.append(Event(epoch, record(), skip.parts, skip.reason, skip.detail))


class _Forwarded(logging.Handler):
    """Keeps warnings, for the log of the run."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))


def serve(descriptor: int, setup: int, progress: int, parent: int) -> None:
    """Works until the run is gone, or has closed its end of the socket.

    Args:
        descriptor: of the socket.
        setup: of a file with a `Setup`, written by the run.
        progress: of a file, in which it says what it is at.
        parent: number of the run's process.
    """
    # A signal to the whole group is for the run, which saves, with batches that are made here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the run asks where a worker is stuck
    processes.end_with(parent)
    over = socket.socket(fileno=descriptor)
    line = connection.Connection(os.dup(descriptor))
    with contextlib.suppress(EOFError, ConnectionError):  # the run closed it, or is gone
        _work(over, line, os.pread(setup, os.fstat(setup).st_size, 0), progress)
    os._exit(0)  # there is nothing to clean up, and much to take apart


def _work(over: socket.socket, line: connection.Connection, said: bytes, progress: int) -> None:
    log = _Forwarded()
    logger = logging.getLogger("unified_fm")
    logger.propagate = False  # what opening the sources has to say, the run has said
    try:
        setup: Setup = reduction.ForkingPickler.loads(said)  # pyright: ignore[reportAttributeAccessIssue]
        loaders = {
            name: Loader(name, entry, seed=setup.seed, tokenizer=setup.tokenizer)
            for name, entry in setup.entries.items()
        }
    except Exception as error:
        line.send(("failed", _portable(error)))
        return
    logging.getLogger().addHandler(log)
    logger.propagate = True
    memory = shared_memory.Writer()
    line.send(("ready", {name: loader.records for name, loader in loaders.items()}))
    while True:
        number, name, slots, piece = line.recv()
        account = _Account(name)
        try:
            examples = []
            for place, slot in enumerate(slots):
                os.pwrite(progress, PROGRESS.pack(number, place), 0)
                examples.append(loaders[name].example(slot, account))
        except Exception as error:
            told = _portable(error)
            line.send(("error", number, told, account.events, log.lines, piece, False))
        else:
            written = memory.write(piece, examples)
            new = written.file is not None
            line.send(("made", number, written.described, account.events, log.lines, piece, new))
            if written.file is not None:
                shared_memory.send(over, written.file)
        log.lines.clear()


def _portable(error: Exception) -> Exception:
    """The error with where it was raised; another one, if it cannot travel."""
    said = "".join(traceback.format_exception(error))
    try:
        said_again = reduction.ForkingPickler.dumps(error)
        reduction.ForkingPickler.loads(said_again)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in worker process {os.getpid()} of the loader:\n{said}")
    return error
