"""Reads records as a training run does, and measures them.

The stream's own loader decides what is used and what is skipped, with the random numbers of the
run's first epoch: what is counted here is what the log of the run counts there. Nothing here needs
JAX, so that many processes can do it.
"""

import dataclasses
import os
import time
from typing import Any

from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.batching import Entry
from unified_fm.data.loader import Loader
from unified_fm.data.order import example_rng
from unified_fm.data.pipelines.base import Arrays
from unified_fm.data.skips import Parts, Skip, Skips
from unified_fm.data.sources.base import Source
from unified_fm.doctor import box_forms, pictures, texts
from unified_fm.doctor.findings import Findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be read, in plain values, so that every process can open it.

    Attributes:
        stream: its name, which is part of the seed.
        entry: of the stream, with the source.
        seed: of the run.
        tokenizer: a path, as `tokenizer.load` takes it; "bytes": none that says anything.
        limit: records to read, from the first on; 0: all.
        guessed: whether the records have told which stream it is, and not the user.
    """

    stream: str
    entry: Entry
    seed: int = 0
    tokenizer: str = "bytes"
    limit: int = 0
    guessed: bool = False


@dataclasses.dataclass(frozen=True)
class Draw:
    """A record as the run sees it in one epoch.

    Attributes:
        arrays: what the pipeline makes of it; None if it cannot be used.
        skipped: why not.
    """

    arrays: Arrays | None
    skipped: str = ""


class Reading:
    """A job, opened.

    Attributes:
        loader: of the stream; it allows any loss, since it is not the one that judges.
        source: the loader's.
        records: to read.
    """

    def __init__(self, job: Job):
        """Opens source, tokenizer and pipeline.

        Raises:
            ValueError, TypeError, OSError: as the run would refuse them.
        """
        self.job = job
        tolerant = dataclasses.replace(job.entry, max_skip=1.0)
        self.tokenizer = tokenizers.load(job.tokenizer)
        self.loader = Loader(job.stream, tolerant, seed=job.seed, tokenizer=self.tokenizer)
        self.source = self._kept = _Kept(self.loader.source)
        self.loader.source = self._kept
        self.records = min(self.loader.records, job.limit or self.loader.records)

    def read(self, start: int, stop: int) -> Findings:
        """What the records from `start` to before `stop` are like."""
        found = Findings()
        wall, cpu = time.perf_counter(), time.thread_time()
        for index in range(start, stop):
            self._kept.forget()
            arrays = self._load(index, found)
            example = self._kept.last(index)
            if example is not None:
                self._measure(index, example, arrays, found)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        # Of this time, what the run would need, too; asking each time costs more than a record.
        found.seconds["cpu"] = cpu * found.seconds["wall"] / max(wall, 1e-9)
        return found.compact()

    def _load(self, index: int, found: Findings) -> Arrays | None:
        """The arrays of a record, as in the run's first epoch; counts what became of it."""
        account = _Account()
        rng = example_rng(self.loader.seed, 0, index)
        wall = time.perf_counter()
        try:
            arrays = self.loader.load(index, rng, account)
        except Exception as error:  # the run would end here: that is a finding, not the check's end
            found.add("records", "failed")
            reason = f"{type(error).__name__} in the source or the pipeline"
            found.add("failed", reason)
            found.name(reason, self.named(index, str(error)))
            return None
        finally:
            found.seconds["wall"] += time.perf_counter() - wall
            found.add("records", "read")
        if account.parts is not None:
            found.add_parts(account.parts)
            for reason in account.parts.dropped:
                found.name(f"(part) {reason}", self.named(index, ""))
        if account.skipped_by is not None:
            found.add("records", "skipped")
            found.add("skipped", account.skipped_by.reason)
            found.name(account.skipped_by.reason, self.named(index, account.skipped_by.detail))
            return None
        found.add("records", "used")
        return arrays

    def draw(self, index: int, epoch: int) -> Draw:
        """What the run makes of a record in an epoch of its own, counted from 0."""
        account = _Account()
        arrays = self.loader.load(index, example_rng(self.loader.seed, epoch, index), account)
        return Draw(arrays, str(account.skipped_by or ""))

    def named(self, index: int, detail: str) -> dict[str, Any]:
        """A record in a list: its number, its file, its image, and what was found."""
        image = (self._kept.last(index) or {}).get("image")
        path = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        return {
            "record": index,
            "place": self.source.place(index),
            "image": path,
            "detail": detail,
        }

    def _measure(
        self, index: int, example: dict[str, Any], arrays: Arrays | None, found: Findings
    ) -> None:
        try:
            pipeline = self.loader.pipeline
            pictures.look_elsewhere(example, found)
            seen = pictures.look(example, pipeline, index, found)
            said = texts.look(example, pipeline, self.tokenizer, index, found)
            boxed = box_forms.look(example, pipeline, found)
            if arrays is not None:
                texts.fill(arrays, found)
            if seen or said:
                found.measure("whole", pictures.digest(seen + said + boxed))
                found.measure("whole_record", index)
        except Exception as error:  # of a measurement; whether the record is used is known by now
            reason = f"not measured: {type(error).__name__}"
            found.add("unmeasured", reason)
            found.name(reason, self.named(index, str(error)))


class _Account(Skips):
    """Keeps what the loader says of one record; it names nobody in the log, and stops nothing."""

    def __init__(self):
        super().__init__("check", max_skip=1.0)
        self.skipped_by: Skip | None = None
        self.parts: Parts | None = None

    def use(self, parts: Parts | None = None, **about: Any) -> None:
        self.parts = parts

    def skip(self, skip: Skip, record: Any, **about: Any) -> None:
        self.skipped_by, self.parts = skip, skip.parts


class _Kept(Source):
    """A source that keeps the example it has given last."""

    def __init__(self, inner: Source):
        self.inner = inner
        self.forget()
        self.problems, self.lost = inner.problems, inner.lost
        self.class_names = inner.class_names

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.forget()  # if it raises, nothing is kept
        self._number, self._example = index, self.inner[index]
        return self._example

    def last(self, index: int) -> dict[str, Any] | None:
        """The example of a record, if it is the last one."""
        return self._example if self._number == index else None

    def forget(self) -> None:
        """Keeps none."""
        self._number, self._example = -1, None

    def place(self, index: int) -> str:
        """As the source says."""
        return self.inner.place(index)
