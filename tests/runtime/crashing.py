"""`tests.runtime.crashing:text`: made examples; the process dies when the path in CRASH_WHEN is."""

import os
import signal

from unified_fm.data.sources import synthetic


class Source(synthetic.Source):
    """Dies as a decoder with a fault in it does, in the thread that reads a record."""

    def __getitem__(self, index):
        if os.path.exists(os.environ.get("CRASH_WHEN", "")):
            signal.raise_signal(signal.SIGSEGV)  # in this thread, as a fault is
        return super().__getitem__(index)
