"""One process of the loader from the side of the run: how it is started, told, heard and ended."""

import collections
import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import connection, reduction
from typing import IO, Any, NamedTuple

from unified_fm.data import shared_memory
from unified_fm.data.loader import Loader
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.data.worker import PROGRESS, Setup, tokenizer_of

GRACE = 2.0  # seconds in which workers end by themselves
_STACKS = 0.2  # seconds to print them in
# Seconds between two parts of one message, which are written at once: without a limit the run would
# hang, too, and with GRACE it is to be known within ten.
_MESSAGE = 6
_START = """
import json, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is for the run
sys.path[:] = json.loads(sys.argv[2])
from unified_fm.data import worker
worker.serve(*map(int, sys.argv[1].split()))
"""


# Its own pickle would not hold that special tokens in a text are read as its characters.
reduction.ForkingPickler.register(Tokenizer, lambda whole: (tokenizer_of, (whole.text(),)))


class Task(NamedTuple):
    """Examples to make: those in some slots of a stream."""

    number: int
    stream: str
    slots: list[int]


class WorkerProcess:
    """One process of the loader, as the run sees it.

    Attributes:
        number: its place among the others.
        ready: whether it has opened the sources.
        named: whether it was said of it that it does not get on.
        tasks: what it was given and has not done; the first is worked on.
        free: numbers of pieces of memory in which nothing lies that is still to be read.
        process: of the system.
    """

    def __init__(self, number: int, setup: IO[bytes], pieces: int):
        self.number = number
        self.free = list(range(pieces))
        self._memory: dict[int, mmap.mmap] = {}
        self.ready = self.named = False
        self.tasks: collections.deque[Task] = collections.deque()
        self._since = time.monotonic()  # when it was last seen to do something, or given work
        # What it writes down before each example; also what a dead one has written can be read.
        self._progress = os.fdopen(shared_memory.anonymous(), "r+b")
        self._seen = self._read_progress()
        self.socket, theirs = _pair()
        with theirs:
            files = [theirs.fileno(), setup.fileno(), self._progress.fileno()]
            numbers = " ".join(map(str, [*files, os.getpid()]))
            path = json.dumps([path for path in sys.path if isinstance(path, str)])
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, numbers, path],
                stdin=subprocess.DEVNULL,
                pass_fds=files,
                start_new_session=True,  # Ctrl-C is for the run
            )
        self.line = connection.Connection(os.dup(self.socket.fileno()))

    def __str__(self) -> str:
        return f"worker {self.number} of the loader (process {self.process.pid})"

    def start(self) -> None:
        """It said that it is ready."""
        self.ready = True
        self._gets_on()

    def give(self, task: Task) -> None:
        """One more task; if it has ended, that is found by who reads."""
        if not self.tasks:
            self._gets_on()
        self.tasks.append(task)
        with contextlib.suppress(OSError):
            # The piece used last first: few are ever made where few are needed.
            self.line.send((*task, self.free.pop()))

    def read(self) -> tuple[Any, ...] | None:
        """What it says; None: it has ended, or has stopped in the middle of it."""
        try:
            what, *message = self.line.recv()
            if what == "made":
                *_, piece, new = message
                if new:
                    self._memory[piece] = shared_memory.receive(self.socket)
                message[1] = shared_memory.examples(message[1], self._memory[piece])
            return what, *message
        except (EOFError, ConnectionError, BlockingIOError):
            return None

    def finish(self, number: int) -> None:
        """It has done its first task."""
        if self.tasks.popleft().number != number:
            raise RuntimeError(f"{self} answered {number}, which was not its turn")
        self._gets_on()

    def silent(self) -> float:
        """Seconds for which it has owed an answer and has not got on."""
        if (progress := self._read_progress()) != self._seen:
            self._seen = progress
            self._gets_on()
        return time.monotonic() - self._since if self.tasks or not self.ready else 0.0

    def _gets_on(self) -> None:
        self._since, self.named = time.monotonic(), False

    def slot(self) -> int | None:
        """The slot that it is at, or was when it ended; None: it has nothing to do."""
        if not self.tasks:
            return None
        number, place = self._read_progress()
        return self.tasks[0].slots[place if number == self.tasks[0].number else 0]

    def _read_progress(self) -> tuple[int, int]:
        found = os.pread(self._progress.fileno(), PROGRESS.size, 0)
        return PROGRESS.unpack(found) if len(found) == PROGRESS.size else (-1, 0)

    def ended(self) -> str:
        """How it ended; its socket has."""
        try:
            code = self.process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            return "says no more"
        if code >= 0:
            return f"has ended with exit code {code}"
        return f"was ended by {signal.Signals(-code).name}"

    def kill(self) -> None:
        """Ends it at once; it prints where it is, if it can."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(_STACKS)
        self.process.kill()

    def hang_up(self) -> None:
        """Closes the sockets; a worker ends by that."""
        self.line.close()
        self.socket.close()
        self._progress.close()

    def end(self, deadline: float) -> None:
        """Waits for its end until then, and ends it."""
        try:
            self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the system holds it: let it be
                self.process.wait(timeout=GRACE)


def _pair() -> tuple[socket.socket, socket.socket]:
    """The run's end of a line to a worker, which waits for no part of a message for ever."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _MESSAGE, 0))
    return ours, theirs


def setup_file(loaders: Mapping[str, Loader]) -> IO[bytes]:
    """What every worker has to know, in a file without a name: none is waited for to read it.

    Raises:
        ValueError: something of it cannot leave this process.
    """
    of_run = next(iter(loaders.values()))
    entries = {name: loader.entry for name, loader in loaders.items()}
    setup = Setup(entries, of_run.run_seed, of_run.tokenizer)
    try:
        content = bytes(reduction.ForkingPickler.dumps(setup))
    except Exception as error:  # PicklingError, TypeError, AttributeError, ... by what it is
        raise ValueError(
            "the streams, or their tokenizer, cannot be handed to the loader's processes:"
            f" {error}. Set loader.processes=0 to load in the run itself"
        ) from error
    file = os.fdopen(shared_memory.anonymous(), "w+b")
    file.write(content)
    file.flush()
    return file
