"""`tests.doctor.fatal_source:N`: N texts, of which one ends the process that reads it.

N of 0: every process but the first ends while it opens the source.
"""

import multiprocessing
import os

from unified_fm.data.sources import base


class Source(base.Source):
    """Record 70 ends any process; 75 is a fault of the source itself."""

    def __init__(self, argument):
        self.count = int(argument) or 20
        if not int(argument) and multiprocessing.parent_process() is not None:
            os._exit(11)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 70:
            if multiprocessing.parent_process() is None:  # so that the test ends, not the tests
                raise SystemExit("a record that ends its process was read by the check itself")
            os._exit(11)
        if index == 75:
            raise KeyError("caption")
        return {"text": f"text {index}"}
