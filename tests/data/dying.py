"""`tests.data.dying:FAULT,FOLDER`: 60 texts, and what happens to who reads the seventh."""

import os
import pathlib
import signal
import time
from typing import Any

from unified_fm.data.skips import Skip
from unified_fm.data.sources import base


class Source(base.Source):
    """FAULT: kill (SIGKILL), kill-once, hang-once, raise, skip; FOLDER keeps what "once" means."""

    def __init__(self, argument: str):
        self.fault, _, folder = argument.partition(",")
        self.met = pathlib.Path(folder or ".") / "met"

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 7 and not (self.fault.endswith("-once") and self.met.exists()):
            self.met.touch()
            self._fail()
        return {"id": index, "text": f"text number {index}"}

    def _fail(self) -> None:
        if self.fault.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.startswith("hang"):
            time.sleep(600)
        if self.fault == "skip":
            raise Skip("a bad one", "number seven")
        raise ZeroDivisionError("a bug")
