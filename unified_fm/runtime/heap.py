"""Memory that was used and is free again goes back to the system.

glibc keeps what a large piece of work has freed, for the next one, in pieces that a step has no use
for. After compiling an X-FM of base width with two layers an encoder, that was 0.9 of 1.7 GB.
"""

import ctypes
import gc
import os


def give_back() -> None:
    """Returns what is free to the system; does nothing where the C library is not glibc."""
    gc.collect()
    try:
        known = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError, AttributeError):  # another C library, or another system
        known = False
    if known:
        ctypes.CDLL(None).malloc_trim(0)
