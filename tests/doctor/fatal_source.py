"""`tests.doctor.fatal_source:N`: N texts, of which one ends the process that reads it."""

import multiprocessing
import os

from unified_fm.data.sources import base


class Source(base.Source):
    """Record 70 ends any process but the first; 75 is a fault of the source itself."""

    def __init__(self, argument):
        self.count = int(argument)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 70 and multiprocessing.parent_process() is not None:
            os._exit(11)
        if index == 75:
            raise KeyError("caption")
        return {"text": f"text {index}"}
