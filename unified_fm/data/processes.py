"""What a process that was started for work does when the one that has started it is gone."""

import os
import threading
import time

_LOOK = 2.0  # seconds between two looks whether it is still there


def end_with(parent: int) -> None:
    """Ends this process, whatever it is at, within seconds after its parent has ended.

    The processes of a pool wait for work at a pipe of which each of them holds both ends: that the
    parent was killed is told by nothing else, and they would stay for ever.

    Args:
        parent: the number of the process that has started this one.
    """
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)
