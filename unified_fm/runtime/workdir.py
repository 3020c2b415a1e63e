"""A workdir: its path, and its lock; two runs in one would overwrite each other's checkpoints."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

_NAME = "run.lock"


class Locked(RuntimeError):
    """Another run uses the workdir."""


def absolute(path: Any) -> epath.Path:
    """The path from the root, local or gs://; Orbax writes to no other."""
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))


@contextlib.contextmanager
def lock(workdir: Any, *, force: bool = False) -> Iterator[None]:
    """Holds the lock of a workdir, which is made if it is missing.

    A lock of a process that no longer lives on this host is taken over; whether a process of
    another host still lives cannot be seen from here.

    Args:
        workdir: local or gs://.
        force: take the lock over whoever holds it.

    Raises:
        Locked: with the host, process id and age of the run that holds it.
    """
    path = epath.Path(workdir) / _NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
        "time": time.time(),
    }
    holder = None if _create(path, mine) else _read(path)
    if holder is not None:
        if not force and _alive(holder):
            age = int(time.time() - holder["time"])
            raise Locked(
                f"{workdir} is used by process {holder['pid']} on host {holder['host']}, which "
                f"locked it {age} s ago. Stop that run, or choose another --workdir. If it no "
                f"longer exists (its host was lost), start again with --force"
            )
        temporary = path.with_name(f"{_NAME}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(mine))
        temporary.replace(path)
    try:
        yield
    finally:
        if _read(path) == mine:  # a run that was forced in meanwhile keeps its own
            path.unlink(missing_ok=True)


def _create(path: Any, mine: dict[str, Any]) -> bool:
    """Writes the lock if there is none; local file systems make sure that only one run does."""
    if "://" in str(path):
        if path.exists():
            return False
        path.write_text(json.dumps(mine))
        return True
    temporary = Path(f"{path}.{os.getpid()}.new")
    temporary.write_text(json.dumps(mine))
    try:
        os.link(temporary, path)  # fails if the lock exists, and is never seen half-written
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _read(path: Any) -> dict[str, Any] | None:
    try:
        holder = json.loads(path.read_text())
        return {key: holder[key] for key in ("host", "pid", "started", "time")}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # gone, or rubbish: nobody that could be named holds it


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    started = _start_of(holder["pid"])
    # A process id is used again, at once in a restarted container: compare when it started.
    return started is not None and started == holder["started"]


def _start_of(pid: int) -> str | None:
    """When a process of this host started, as a text to compare; None if it does not live."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {stat.read_text().rsplit(')', 1)[1].split()[19]}"
        except (OSError, IndexError):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"
    return "alive"
