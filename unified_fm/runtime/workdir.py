"""A workdir: its path, and its lock; two runs in one would overwrite each other's checkpoints.

The lock is a file, `run.lock`, that names its holder. It is made by exclusive creation, which
needs no hard links and works on network file systems; its modification time is the holder's sign of
life. Only the owner of a second such file, named after the one lock that it may replace or remove,
changes a lock: of many that find the same dead holder, one enters. On a bucket nothing is locked.
"""

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from etils import epath

from unified_fm import files
from unified_fm.runtime.surroundings import Unusable

_NAME = "run.lock"
_BEAT = 15.0  # seconds between two signs of life of the holder
# Eight signs of life missed: a holder of another host is lost. A network disk shows the time of a
# file as it is when the file is opened, so less would do; it is for a disk that hangs or a machine
# that is moved. A holder that was stopped for longer finds the lock taken and saves no more.
_LOST = 120.0
# The same for a holder on a host of this name whose processes cannot be seen from here: mostly this
# container before it was started anew.
_LOST_BESIDE = 60.0
_WRITING = 10.0  # a lock without a name in it that is older was left by a starter that died
_PATIENCE = 15.0  # for one who is just now making or replacing the lock, or died doing it
_log = logging.getLogger(__name__)


class Locked(RuntimeError):
    """Another run uses the workdir."""


class LockLost(RuntimeError):
    """The lock that this run holds has been taken over by another one."""


def absolute(path: Any) -> epath.Path:
    """The path from the root, local or gs://; Orbax writes to no other.

    Raises:
        ValueError: it is in a bucket of another protocol.
    """
    text = os.fspath(path)
    if "://" in text and not text.startswith("gs://"):
        raise ValueError(
            f"{text}: checkpoints are written to local folders and gs:// only (Orbax has no other"
            " protocol): mount the bucket, or copy the run there when it is done"
        )
    return epath.Path(text if "://" in text else os.path.abspath(text))


class Held:
    """The lock of a workdir, held by this run."""

    def __init__(self, path: Path | None, mine: dict[str, Any]):
        self._path = path
        self._mine = mine
        self._ended = threading.Event()

    def check(self) -> None:
        """Makes sure, before anything is saved, that the lock is still this run's.

        Raises:
            LockLost: another run has taken it over (`--force`); says which.
            Unusable: the lock cannot be read.
        """
        if self._path is None or self._ours():
            return
        found = _look(self._path)
        by = f"by {_name(found.holder)}" if found and found.holder else "and is gone"
        raise LockLost(
            f"the lock of {self._path.parent} was taken {by}: this run stops and saves nothing more"
        )

    def release(self) -> None:
        """Removes the lock, unless it is another's by now. The second call does nothing."""
        if self._path is None or self._ended.is_set():
            return
        self._ended.set()
        with contextlib.suppress(Locked, OSError), contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # on a full disk there is no room for the right
                stack.enter_context(_alone_with(self._path, self._mine["key"]))
            if self._ours():
                self._path.unlink()

    def start_beats(self) -> None:
        """Gives a sign of life every few seconds, from a thread, until `release`."""
        if self._path is not None:
            threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def _beat(self):
        while not self._ended.wait(_BEAT):
            with contextlib.suppress(OSError):  # a full or distant disk: tried again
                if self._ours():
                    os.utime(cast(Path, self._path))

    def _ours(self):
        found = _look(cast(Path, self._path))
        return found is not None and found.holder == self._mine


@contextlib.contextmanager
def lock(workdir: Any, *, force: bool = False) -> Iterator[Held]:
    """Holds the lock of a workdir, which is made if it is missing.

    The lock of a process that no longer lives on this host is taken over at once, that of another
    host after two minutes without a sign of life.

    Args:
        workdir: local; a bucket is not locked, which is said.
        force: take the lock over whoever holds it.

    Raises:
        Locked: with the host, process id and age of the run that holds it.
        Unusable: the lock of another cannot be read.
        OSError: the folder cannot be written to.
    """
    folder = epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    mine = _me()
    if "://" in str(workdir):
        _log.warning("%s is not locked: see to it that no other run uses it", workdir)
        yield Held(None, mine)
        return
    path = Path(os.fspath(folder)) / _NAME
    _acquire(path, mine, force=force)
    held = Held(path, mine)
    held.start_beats()
    try:
        yield held
    finally:
        held.release()


@dataclasses.dataclass(frozen=True)
class _Found:
    """A lock file as it was read: who holds it (None: not known), its name, its time."""

    holder: dict[str, Any] | None
    key: str
    modified: float


def _acquire(path: Path, mine: dict[str, Any], *, force: bool = False) -> None:
    """Makes the file at `path` name `mine`; raises `Locked` if a living process holds it."""
    patience = time.monotonic() + _PATIENCE
    while True:
        if _create(path, mine):
            break
        found = _look(path)
        if found is None:  # removed in between
            continue
        try:
            if not force and _lives(path, found):
                raise Locked(_held_by(path, found))
            with _alone_with(path, found.key):
                now = _look(path)
                if now is None or now.key != found.key:
                    continue  # another has replaced it meanwhile: look again
                _replace(path, mine)
                break
        except Locked:
            if (found.holder is not None and _lives(path, found)) or time.monotonic() > patience:
                raise
            time.sleep(0.05)
    found = _look(path)  # read back: whoever was too slow to write its name does not hold it
    if found is None or found.holder != mine:
        raise Locked(f"{path.parent} was locked by another run at the same moment")


@contextlib.contextmanager
def _alone_with(path: Path, key: str) -> Iterator[None]:
    """The right to replace or remove the lock named `key`; one process at a time has it.

    A lock that has been replaced never comes back, so after looking again that it is still the same
    one, the owner of this right is the only one who can change it.
    """
    right, mine = path.with_name(f"{_NAME}.{key}"), _me()
    _acquire(right, mine)
    try:
        yield
    finally:
        right.unlink(missing_ok=True)


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": _start_of(pid),
        "time": time.time(),
        "key": secrets.token_hex(8),
        "processes": _processes(),
    }


def _create(path: Path, mine: dict[str, Any]) -> bool:
    """Writes the lock if there is none; the file system makes sure that only one run does."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(file, "w") as opened:
            json.dump(mine, opened)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError:  # a full disk: a lock that names nobody would keep all others out for a while
        path.unlink(missing_ok=True)
        raise
    return True


def _replace(path: Path, mine: dict[str, Any]) -> None:
    files.write_whole(path, json.dumps(mine))


def _look(path: Path) -> _Found | None:
    """Reads a lock; None if there is none. Raises Unusable: it cannot be known."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:  # rights, a stale handle of a network disk, a file for a folder
        raise Unusable(
            f"{path} cannot be read ({error.strerror or error}), so whether another run uses "
            f"{path.parent} is not known, and nothing is written there"
        ) from error
    try:
        holder = json.loads(text)
        if not all(key in holder for key in ("host", "pid", "started", "time")):
            raise ValueError("names no holder")
        _ = int(holder["pid"]), float(holder["time"])
    except (ValueError, TypeError):
        holder = None
    # A lock without a key of its own is told from others by its place on the disk.
    own = holder and holder.get("key")
    if not isinstance(own, str) or not own.isalnum() or path.name.endswith(own):
        own = f"{stat.st_ino}-{stat.st_mtime_ns}"
    return _Found(holder, own, stat.st_mtime)


def _lives(path: Path, found: _Found) -> bool:
    """Whether the holder of a lock may be alive."""
    holder = found.holder
    if holder is None:
        return _age(path, found) < _WRITING
    if holder["host"] != socket.gethostname():
        return _age(path, found) < _LOST
    if holder.get("processes", _processes()) != _processes():
        return _age(path, found) < _LOST_BESIDE
    started = _start_of(holder["pid"])
    # A process id is used again, at once in a restarted container: compare when it started.
    return started is not None and started == holder["started"]


def _age(path: Path, found: _Found) -> float:
    """Seconds since the last sign of life, by the clock of the file system, not by this host's."""
    if found.holder is not None and "key" not in found.holder:
        return time.time() - float(found.holder["time"])  # of an older version, which gave none
    probe = path.with_name(f"{_NAME}.{secrets.token_hex(8)}.now")
    try:
        probe.touch()
        return probe.stat().st_mtime - found.modified
    finally:
        probe.unlink(missing_ok=True)


def _held_by(path: Path, found: _Found) -> str:
    if found.holder is None:
        return f"{path.parent} is being locked by another run at this moment"
    age = int(time.time() - float(found.holder["time"]))
    return (
        f"{path.parent} is used by {_name(found.holder)}, which locked it {age} s ago. Stop that "
        f"run, or choose another --workdir. If it no longer exists, start again with --force (the "
        f"lock of a lost host lapses {_LOST:.0f} s after its last sign of life, "
        f"{int(_age(path, found))} s ago)"
    )


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on host {holder['host']}"


def _processes() -> str:
    """Names the set of processes that this one can see: a container has one of its own."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _start_of(pid: int) -> str | None:
    """When a process of this host started, as a text to compare; None if it does not live."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            parts = stat.read_text().rsplit(")", 1)[1].split()
            return None if parts[0] == "Z" else f"{boot} {parts[19]}"
        except (OSError, IndexError):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"
    return "alive"
