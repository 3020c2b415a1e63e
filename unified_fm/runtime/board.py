"""TensorBoard files, written by the caller itself.

tensorboardX's `SummaryWriter` hands its events to a thread. When the disk is full that thread dies,
and soon after the caller waits for ever for room in its queue.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any, cast

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

_proto = cast(Any, event_pb2)  # its messages are made when it is imported
_FLUSH_S = 30.0  # TensorBoard sees what is flushed
_REST_S = 60.0  # after a failure; every attempt leaves a file behind


class Board:
    """Scalars by name and step; some time after a failure it goes on in a new file."""

    def __init__(self, folder: str, *, first_step: int):
        """Prepares a folder; nothing is written yet.

        Args:
            folder: local.
            first_step: TensorBoard forgets what an earlier run wrote from this step on.
        """
        self._folder = folder
        self._first_step = first_step
        self._writer: event_file_writer.EventsWriter | None = None
        self._opened = 0
        self._flushed = 0.0
        self._rests_until = 0.0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers of a step.

        Raises:
            OSError: they could not be written; those of the next minute are left out.
        """
        if time.monotonic() < self._rests_until:
            return
        try:
            if self._writer is None:
                self._writer = self._open()
            for name, value in values.items():
                self._event(step=step, summary=summary.scalar(name, float(value)))
            if time.monotonic() - self._flushed > _FLUSH_S:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError:
            self._rests_until = time.monotonic() + _REST_S
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):
                if writer is not None:
                    writer.close()
            raise

    def close(self) -> None:
        """Flushes. Raises as `write`."""
        if self._writer is not None:
            self._writer.close()

    def _open(self):
        os.makedirs(self._folder, exist_ok=True)
        self._opened += 1  # two files of one second must not have one name
        name = os.path.join(self._folder, "events")
        suffix = f".{os.getpid()}.{self._opened}"
        writer = event_file_writer.EventsWriter(name, filename_suffix=suffix)
        start = _proto.SessionLog(status=_proto.SessionLog.START)
        self._event(writer, step=self._first_step, session_log=start)
        return writer

    def _event(self, writer=None, **fields):
        event = _proto.Event(wall_time=time.time(), **fields)
        cast(event_file_writer.EventsWriter, writer or self._writer).write_event(event)
