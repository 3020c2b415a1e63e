"""Disks of `tools/chaos.py` that can be filled up and freed while a process writes to them."""

import pathlib
import resource
import subprocess
from collections.abc import Callable
from typing import Any


def choose(kind: str, folder: pathlib.Path) -> Callable[[pathlib.Path], Any]:
    """The kind of disk to use.

    Args:
        kind: "tmpfs", "limit", or "auto": the first if it can be had here, else the second.
        folder: where mounting may be tried.

    Raises:
        SystemExit: there can be no tmpfs.
    """
    if kind == "limit":
        return SizeLimit
    probe = folder / "probe"
    probe.mkdir()
    try:
        SmallDisk(probe).close()
    except OSError as error:
        if kind == "tmpfs":
            raise SystemExit(f"--disk=tmpfs: cannot be mounted: {error}") from None
        return SizeLimit
    return SmallDisk


class SmallDisk:
    """A file system in memory that can be filled: writes then fail with ENOSPC. Needs root."""

    name = "a small tmpfs, filled up (ENOSPC)"

    def __init__(self, folder: pathlib.Path):
        """Mounts it on the folder. Raises OSError where that is not allowed."""
        self._folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "chaos", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            raise OSError(done.stderr)

    def fill(self, pid: int) -> None:
        """Leaves not one byte."""
        del pid
        with open(self._folder / "filler", "ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self, pid: int) -> None:
        """Gives the space back."""
        del pid
        (self._folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmounts it."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class SizeLimit:
    """A limit of the size of files, 0 bytes: writes fail with EFBIG instead. Needs no rights."""

    name = "a file size limit of 0 bytes (EFBIG stands in for ENOSPC)"

    def __init__(self, folder: pathlib.Path):
        del folder

    def fill(self, pid: int) -> None:
        """Makes every write of the process fail."""
        self._limit(pid, 0)

    def free(self, pid: int) -> None:
        """Lets it write again."""
        self._limit(pid, resource.RLIM_INFINITY)

    def close(self) -> None:
        """Nothing is left."""

    def _limit(self, pid: int, size: int) -> None:
        try:
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
        except ProcessLookupError:
            pass  # it has ended
