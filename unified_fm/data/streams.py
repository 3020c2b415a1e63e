"""Streams of batches: a source, a pipeline, a batch size, and what is learnt from them."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unified_fm.data import specs, workers
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.batching import Batching, Entry, Part
from unified_fm.data.feeder import Feeder
from unified_fm.data.loader import Batch, Loader, Reader
from unified_fm.data.pipelines import base
from unified_fm.data.specs import Tree
from unified_fm.data.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

PATIENCE = 120.0  # seconds for an example in a process of the loader


def stream(
    pipeline: str,
    source: str | Sequence[str],
    batch_size: int,
    objectives: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """One entry of `config.streams`: numbers and names, nothing is opened.

    Args:
        pipeline: a name in `data/pipelines`, or a dotted module of the user's.
        source: a source string ("jsonl:FILE", "array_record:STEM", ...), several joined by "+", or
            a list of them.
        batch_size: rows of the global batch (texts, images, pairs, or region rows).
        objectives: name -> weight, or name -> dict(weight=..., option=...).
        **options: of the pipeline (`max_len`, `size`, ...), and of the stream itself: `max_skip`
            (largest fraction of unusable records, and of unusable parts of records such as boxes,
            0.01; 0 stops at the first), `shuffle` (True),
            `cycle` (epochs after which everything repeats, augmentation and masks too; 0: never),
            `threads` (one per core), `groups` (of rows that may refer to each other, 1: negatives
            are drawn and regions packed inside a group, and the mesh cuts between groups); a
            regions stream also has `images` (of the global batch, required). `weights`, of the
            sources in a list: how often each is met, or stages of it, see `mixture`.
    """
    return {
        "pipeline": pipeline,
        "source": source,
        "batch_size": batch_size,
        "objectives": dict(objectives or {}),
        **options,
    }


class Streams:
    """Endless iterator of {stream: batch}, loaded ahead in the background; `end()` ends it.

    Every batch holds this process's rows of the global batch. The batches depend on the configs,
    the seed and the position only, not on the number of processes or threads.

    Attributes:
        loaders: {stream: its loader}.
        processes: that make the examples; 0: threads of this one do.
        wait_time: seconds that `next` has waited for data, in all.
    """

    _feeder: Feeder | None = None

    def __init__(
        self,
        configs: Mapping[str, Mapping[str, Any]],
        *,
        seed: int,
        part: Part | None = None,
        tokenizer: Tokenizer | str | None = None,
        extra: Mapping[str, Callable[[Loader], Reader]] | None = None,
        processes: int | None = 0,
        patience: float = PATIENCE,
    ):
        """Opens every stream; loading starts with the first batch asked for.

        Args:
            configs: {name: entry as `stream` makes it}.
            seed: of order, augmentation and masks.
            part: of every batch, which this process loads; None = all of it.
            tokenizer: for pipelines with text; a string is loaded by `tokenizer.load`.
            extra: {stream: opens a reader of more arrays}, such as what a teacher said of the
                slots. It is called with the opened loader and may refuse it.
            processes: that make the examples, see `workers`; 0: threads of this one do, None:
                as many as suit this machine.
            patience: seconds for an example, before a process is taken to be stuck.

        Raises:
            ValueError: no stream, an unknown source, sizes that do not divide, fewer records than
                a batch.
            TypeError: an unknown option.
        """
        if not configs:
            raise ValueError("no stream is configured; at least one is needed")
        tokenizer = _opened(tokenizer)
        self._seed = seed
        self.loaders = {
            name: Loader(
                name,
                config,
                seed=seed,
                part=part,
                tokenizer=tokenizer,
                extra=(extra or {}).get(name),
            )
            for name, config in configs.items()
        }
        for loader in self.loaders.values():
            loader.check_filled()
        self.processes = workers.suitable(self.loaders) if processes is None else processes
        self._patience = patience
        self.wait_time = 0.0
        self._lock, self._ended = threading.Lock(), False  # of who is the feeder
        self._samples = dict.fromkeys(self.loaders, 0)  # global slots handed out

    def __iter__(self) -> "Streams":
        return self

    def __next__(self) -> dict[str, Batch]:
        """The next batch of every stream.

        When it completes an epoch of a stream, the log says how many records were skipped in it,
        and of a mixture how many epochs of each source have been.

        Raises:
            TooManySkips: see `skips`. Whatever else went wrong in a loader's thread.
            RuntimeError: they were closed meanwhile, or ended.
        """
        feeder = self.start()
        began = time.perf_counter()
        batches = feeder.get()
        self.wait_time += time.perf_counter() - began
        for name, loader in self.loaders.items():
            before = self._samples[name]
            self._samples[name] += loader.slots
            ended = self._samples[name] // loader.records - 1  # the last one that is complete
            if before // loader.records <= ended and (line := loader.skips.end_epoch(ended)):
                _log.info(line + loader.epochs_said(self._samples[name]))
        return batches

    def start(self) -> Feeder:
        """Begins to load in the background, before the first batch is asked for.

        Raises:
            RuntimeError: they were ended.
        """
        with self._lock:
            if self._ended:
                raise RuntimeError("no batch is loaded any more: the streams were ended")
            if self._feeder is None:
                self._feeder = Feeder(self.loaders, self._samples, self.processes, self._patience)
            return self._feeder

    def spec(self) -> dict[str, Tree]:
        """{stream: {array: its shape and dtype}} of the global batches; nothing is read for it."""
        return {name: loader.spec() for name, loader in self.loaders.items()}

    def state(self) -> dict[str, Any]:
        """The position after the batches handed out so far: a small dict of numbers for JSON."""
        return {
            "seed": self._seed,
            "streams": {
                name: {
                    "samples": self._samples[name],
                    "batch": loader.slots,
                    "records": loader.records,
                    **loader.order.form,
                }
                for name, loader in self.loaders.items()
            },
        }

    def restore(self, state: Mapping[str, Any], *, allow: Sequence[str] = ()) -> None:
        """Continues at a position: the batches that follow are those of the undisturbed run.

        Args:
            state: from `state()`, of any number of processes.
            allow: differences to accept: "seed", "batch" (goes on after the samples seen),
                "records", "parts" (records of each source of a mixture), "order" (how it is made),
                "stages" (of a mixture: first slots and counts), "streams" (a new stream starts at
                its beginning).

        Raises:
            ValueError: the state is of other data; says what differs and what allows it.
        """
        self._compare("seed", "", state["seed"], self._seed, allow)
        then = state["streams"]
        self._compare("streams", "", sorted(then), sorted(self.loaders), allow)
        samples = dict.fromkeys(self.loaders, 0)
        for name in samples.keys() & then.keys():
            now = self.state()["streams"][name]
            for what in ("batch", "records", "order", "parts"):
                self._compare(
                    what, f"stream {name!r}: ", then[name].get(what), now.get(what), allow
                )
            if "stages" in then[name]:  # not in older checkpoints
                stages = then[name]["stages"], now.get("stages")
                self._compare("stages", f"stream {name!r}: ", *stages, allow)
            samples[name] = int(then[name]["samples"])
        self.close()
        self._samples = samples
        for loader in self.loaders.values():  # what was read before is not of this run
            loader.skips = loader.skips.renewed()

    def last_records(self, state: Mapping[str, Any] | None = None) -> dict[str, list[int]]:
        """The record numbers of this process's part of one batch of each stream, to report a fault.

        Args:
            state: the position after that batch; by default after the last one handed out.
        """
        ends = (state or self.state())["streams"]
        return {
            name: [
                loader.index_of(loader.slot_of(ends[name]["samples"] - loader.slots, place))
                for place in range(loader.local_slots)
            ]
            for name, loader in self.loaders.items()
            if ends[name]["samples"]
        }

    def epochs(self, state: Mapping[str, Any]) -> dict[str, float]:
        """{"epochs/STREAM/NUMBER": epochs of each source of a mixture} up to a position."""
        return {
            f"epochs/{name}/{number}": epochs
            for name, loader in self.loaders.items()
            for number, epochs in enumerate(loader.epochs(state["streams"][name]["samples"]))
        }

    def skip_lines(self) -> dict[str, str]:
        """{stream: its used and skipped records in one line}, of this process since it began.

        Batches that were loaded ahead are counted.
        """
        return {name: loader.skips.line() for name, loader in self.loaders.items()}

    def skip_table(self) -> str:
        """Counts of used and skipped records by reason, stream by stream."""
        return "\n".join(loader.skips.table() for loader in self.loaders.values())

    def close(self) -> None:
        """Ends the threads; the next batch asked for starts them again."""
        with self._lock:
            feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.close()

    def end(self) -> None:
        """Ends the threads for good: one that is about to ask for a batch starts none again."""
        with self._lock:
            self._ended = True
        self.close()

    def __del__(self):
        if self._feeder is not None:
            self._feeder.close()

    def _compare(self, what: str, where: str, then: Any, now: Any, allow: Sequence[str]) -> None:
        if then != now and what not in allow:
            raise ValueError(
                f"{where}the checkpoint was made with {what} {then}, and now it is {now}: the data"
                f" would not continue where it stopped; allow {what!r} to go on all the same"
            )


def spec(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    tokenizer: Tokenizer | str | None = None,
    extra: Mapping[str, Tree] | None = None,
) -> dict[str, Tree]:
    """{stream: {array: its shape and dtype}} of the global batches, without opening any source.

    `extra` is {stream: what its reader gives for some slots}.

    Raises:
        ValueError, TypeError: as `Streams`, but for what concerns the data.
    """
    tokenizer = _opened(tokenizer)
    found = {}
    for name, config in configs.items():
        batching = Batching(name, config, tokenizer=tokenizer)
        more = specs.of_rows((extra or {}).get(name, {}), batching.slot_axis)
        found[name] = batching.spec() | batching.of_global_batch(more)
    return found


def batches(
    config: Entry | Mapping[str, Any],
    *,
    tokenizer: Tokenizer | str | None = None,
    seed: int = 0,
    part: Part | None = None,
    limit: int | None = None,
    turn: tuple[int, int] = (0, 1),
    name: str = "evaluation",
    on_loss: Callable[[str], Any] = lambda line: None,
) -> Iterator[Batch]:
    """One pass over a stream for evaluation: in order, not augmented, the last batch filled up.

    Every batch has `weight f32[B]`: 0 for the rows that fill up and for unusable records. Masks are
    still drawn, from (seed, record). With several processes each gets its part of every batch.

    Args:
        config: as `stream` makes it; `augment` becomes "none" where the pipeline has it.
        limit: records to use, from the first on.
        turn: (i, n) gives only the batches i, i + n, i + 2n, ...
        name: for messages; the masks depend on it.
        on_loss: given the counts of records in a line, at the end, if any was left out.
    """
    entry = dataclasses.replace(Entry.of(name, config), weights=None)  # one pass over each
    if "augment" in base.options_of(base.load(entry.pipeline)):
        entry = dataclasses.replace(entry, options={**entry.options, "augment": "none"})
    loader = Loader(
        name,
        entry,
        seed=seed,
        part=part,
        tokenizer=_opened(tokenizer),
    )
    return _told(loader, limit, turn, on_loss)


def _opened(tokenizer: Tokenizer | str | None) -> Tokenizer | None:
    return tokenizers.load(tokenizer) if isinstance(tokenizer, str) else tokenizer


def _told(
    loader: Loader, limit: int | None, turn: tuple[int, int], on_loss: Callable[[str], Any]
) -> Iterator[Batch]:
    yield from loader.once(limit, turn)
    if loader.skips.lossy:
        _log.warning("%s", loader.skips.table())
        on_loss(loader.skips.line())
