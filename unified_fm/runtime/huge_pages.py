"""Large memory pages for a CPU: a fifth less time for a step.

XLA takes the memory of a step anew each time. With pages of 4 kB the kernel hands out, and clears,
ten thousands of them in every step of the quick start, and millions at base size. glibc asks for
pages of 2 MB where its tunable says so, and reads that when a process starts; so the process starts
itself once more, with the same number and the same arguments. Accelerators have memory of their
own, and nothing is changed for them.
"""

import importlib.util
import os
import pathlib
import sys
from collections.abc import Mapping

_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("libtpu", "jax_plugins")


def restart() -> None:
    """Starts this process again with large pages, where they can be had and are not there yet.

    To be called before anything else is done. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 in the
    environment keeps it from doing so.
    """
    changed = environment(os.environ)
    if changed is not None and sys.orig_argv[1:]:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)


def environment(given: Mapping[str, str]) -> dict[str, str] | None:
    """The environment with large pages; None where they are of no use, or already decided on."""
    tunables = given.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not _on_cpu(given) or not (_glibc_knows() and _kernel_gives()):
        return None
    joined = ":".join(filter(None, (tunables, f"{_TUNABLE}=1")))
    return {**given, "GLIBC_TUNABLES": joined}


def _on_cpu(given: Mapping[str, str]) -> bool:
    platforms = given.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in _ACCELERATORS)


def _glibc_knows() -> bool:
    """Whether the C library is glibc of at least 2.35, which has the tunable."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    except (ValueError, OSError, AttributeError):  # another C library, or another system
        return False


def _kernel_gives() -> bool:
    """Whether the kernel gives large pages to those who ask, and not to everybody in any case."""
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:
        return False
