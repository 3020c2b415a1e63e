"""What a run needs of the machine, looked at when it starts and not when it ends.

A workdir that cannot be written is refused. What a run can do without is a warning that says what
will be missing: a temporary folder, a home for compiled programs, a clock that goes forward. The
network is not looked at, because nothing needs it: data, tokenizers and weights are local files.
"""

import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from etils import epath

from unified_fm import buckets

_BLOCK = bytes(1 << 16)
_BACK_S = 60.0  # clocks of machines that share a disk may differ by less
_log = logging.getLogger(__name__)


class Unusable(OSError):
    """The workdir cannot be written, or its lock not read; the text says where and why."""


def check(workdir: Any) -> None:
    """Refuses what cannot work and warns of what will be missing.

    Args:
        workdir: of the run, local or gs://; made if it is missing.

    Raises:
        Unusable: it cannot be made, or no file can be written there.
    """
    workdir = epath.Path(workdir)
    _check_workdir(workdir)
    for warning in (_clock(workdir), _temporary_folder(), _home()):
        if warning:
            _log.warning("warning: %s", warning)


def _check_workdir(workdir: epath.Path) -> None:
    probe = workdir / f".probe-{os.getpid()}"
    try:
        with buckets.as_os_error(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(_BLOCK)
            finally:
                probe.unlink(missing_ok=True)
    except OSError as error:
        raise Unusable(
            f"the workdir {workdir} cannot be written ({error.strerror or error}); the current "
            f"folder is {os.getcwd()}. Name another one with --workdir=..."
        ) from error


def _clock(workdir: epath.Path) -> str | None:
    file = workdir / "config.json"  # written at every start
    if "://" in str(workdir) or not file.exists():
        return None
    back = file.stat().mtime - time.time()
    if back < _BACK_S:
        return None
    return (
        f"the clock stands {back:.0f} s before the last start of this run. Nothing here depends on "
        "it but the times in the lock, in error.txt and of files"
    )


def _temporary_folder() -> str | None:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(_BLOCK)
            file.flush()
    except OSError as error:
        where = os.environ.get("TMPDIR", "/tmp")
        return (
            f"the temporary folder {where} cannot be written ({error.strerror or error}); the "
            "report at the end needs it. Make room there, or name another one in TMPDIR"
        )
    return None


def _home() -> str | None:
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        base.mkdir(parents=True, exist_ok=True)
        usable = os.access(base, os.W_OK)
    except (OSError, RuntimeError):
        usable = False
    if usable:
        return None
    return (
        "there is no home folder that can be written, so compiled programs are not kept and every "
        "start compiles anew; JAX_COMPILATION_CACHE_DIR names another place"
    )
