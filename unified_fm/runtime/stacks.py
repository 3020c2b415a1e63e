"""The stacks of all threads: where a run was when it did not go on."""

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
import time
from typing import TextIO, cast

_log = logging.getLogger(__name__)


def show(why: str, folder: str | None = None) -> None:
    """Writes the stacks of all threads to the log, and to `stacks.txt`.

    Args:
        why: the first line.
        folder: local folder of the file; None, or one on a bucket: the log only.
    """
    try:
        text = _read()
    except OSError:  # no room for a temporary file: straight to the screen
        _log.error("%s; the stacks of all threads:", why)
        with contextlib.suppress(Exception):
            faulthandler.dump_traceback(cast(TextIO, sys.__stderr__), all_threads=True)
        return
    _log.error("%s; the stacks of all threads:\n%s", why, text)
    if folder is None or "://" in folder:
        return
    with contextlib.suppress(OSError), open(os.path.join(folder, "stacks.txt"), "a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {why}\n{text}\n")


def _read() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
