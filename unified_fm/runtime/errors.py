"""`error.txt`: all that is to be known about the error that ended a run."""

import importlib.metadata
import os
import platform
import sys
import time
import traceback
from typing import Any

from unified_fm import files

_PACKAGES = ("unified_fm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write(folder: Any, error: BaseException, *, process: int = 0) -> Any:
    """Writes the traceback, the command and the versions into the workdir.

    Args:
        folder: the workdir, an `epath.Path`; made if it is missing.
        error: with its notes, such as the step.
        process: index of this process; others than the first write `error-INDEX.txt`.

    Returns:
        The path of the file.

    Raises:
        OSError: it could not be written.
    """
    name = f"error-{process}.txt" if process else "error.txt"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    files.write_whole(path, text(error))
    return path


def text(error: BaseException) -> str:
    """When, what command, which versions, and the traceback with its causes."""
    versions = [f"python {platform.python_version()}", *map(_version, _PACKAGES)]
    lines = [
        f"time: {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"command: {' '.join(sys.argv)}",
        f"folder: {os.getcwd()}",
        f"versions: {', '.join(versions)}",
        f"system: {platform.platform()}",
        "",
    ]
    return "\n".join(lines) + "\n" + "".join(traceback.format_exception(error))


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} (not installed)"
