"""What an evaluator is, and what evaluators share: the metric record and held-out data."""

import dataclasses
import functools
import itertools
import logging
import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from unified_fm import plugins
from unified_fm.data import skips
from unified_fm.data.loader import Loader
from unified_fm.data.pipelines import base as pipelines
from unified_fm.data.source import name_record, open_source
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.evaluators import _passes
from unified_fm.evaluators._batches import Apply, in_batches
from unified_fm.evaluators._passes import Pass, Passes
from unified_fm.evaluators._place import Place
from unified_fm.tasks._metrics.calibration import Bins


class Metric(NamedTuple):
    """One number of an evaluation, beside what a guess without the model would reach.

    Attributes:
        name: what was measured; the run prefixes the evaluator's name ("retrieval/...").
        value: the result; a share is kept in 0..1 and shown in percent.
        chance: the same measure of the best guess without the model; None: there is none.
        chance_is: how that guess was made ("random order", "best constant box").
        error: standard error of `value` over the examples (binomial for a share).
        unit: "%" for a share, "" for a plain number.
        better: "higher", "lower" or "neither".
        how: what else the number depends on, where that is a choice ("256 by itm").
    """

    name: str
    value: float
    chance: float | None = None
    chance_is: str = ""
    error: float | None = None
    unit: str = ""
    better: str = "higher"
    how: str = ""


class RetrievalExample(NamedTuple):
    """A query and its best candidates; for an image query captions, for a caption images."""

    image: np.ndarray | None  # u8[H W 3], or None where the query is a caption
    caption: str | None
    candidates: Sequence[Any]  # best first
    correct: Sequence[bool]
    truth: Sequence[Any]


class BoxExample(NamedTuple):
    """A phrase, the box predicted for it and the true one (cx, cy, w, h in 0..1)."""

    image: np.ndarray  # u8[H W 3]
    phrase: str
    predicted: np.ndarray
    target: np.ndarray
    iou: float


class WordExample(NamedTuple):
    """A caption with a masked word and the model's best guesses with their probabilities."""

    image: np.ndarray | None  # u8[H W 3]
    caption: str  # with ____ in place of the word
    word: str
    guesses: Sequence[tuple[str, float]]


class ReliabilityExample(NamedTuple):
    """Accuracy beside confidence, as a model gives it and at a fitted temperature."""

    plain: Bins
    fitted: Bins
    error: float  # expected calibration error, 0..1
    error_fitted: float
    temperature: float


class Results(NamedTuple):
    """What `run_all` returns: metrics with full names, report examples by evaluator."""

    metrics: list[Metric]
    examples: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Protocol):
    """Measures a model: a frozen dataclass, whose further fields are its options in the config.

    Derive from it, or from `HeldOut` to read examples: then `run` is all that is to be written.
    What depends on the options is a property.

    Attributes:
        metric_names: of the metrics of `run`, or what they begin with ("task/itc" for
            "task/itc/accuracy"); None: it does not say so beforehand.
        sources: source strings of what it reads.
        asks: names of the run's streams whose objectives it asks, by `apply.outputs`.
        tokenizer: the run's; None only while a config is looked at.
        streams: those of the run, {name: entry as `data.streams.stream` makes it}.
        passes: the held-out data that this evaluation has decoded, and who has which part of it.
        place: its name and the run's folder, where it may write.
        examples: what `run` leaves for the report.
    """

    metric_names: ClassVar[Sequence[str] | None] = None
    sources: ClassVar[Sequence[str]] = ()
    asks: ClassVar[Collection[str]] = ()

    tokenizer: Tokenizer | None = None
    streams: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict, repr=False)
    passes: Passes = dataclasses.field(default_factory=Passes, repr=False, compare=False)
    place: Place = dataclasses.field(default_factory=Place, repr=False, compare=False)
    examples: list[Any] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer, for what cannot do without. Raises ValueError if there is none."""
        if self.tokenizer is None:
            raise ValueError(f"{type(self).__module__} needs a tokenizer; none given")
        return self.tokenizer

    def check(self) -> None:
        """Raises, before the first step, if what it reads is not there or of no use."""

    @abstractmethod
    def run(self, apply: Apply, params: Any) -> Iterator[Metric]:
        """Yields the metrics of these parameters.

        All processes of a run call it alike, and get the same metrics.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut(Evaluator):
    """Reads held-out examples: the same ones in the same order at every call.

    Attributes:
        source: the source string ("demo:scenes/test", "jsonl:captions.jsonl").
        pipeline: name of the pipeline, which is given `options` and the tokenizer.
        options: keywords of the pipeline.
        num_examples: how many records are used, from the first on; fewer if the source is shorter,
            and None: all.
        batch_size: rows per compiled call, about.
        seed: of the random choices of the evaluation.
        whole: options by which all of an official set is measured, where a user says no more than
            the source (`unified-fm evaluate --as`).
        option_defaults: what `options` are where they say nothing and the pipeline has such an
            option: by these nothing is augmented or masked.
    """

    whole: ClassVar[Mapping[str, Any]] = {"num_examples": None}
    option_defaults: ClassVar[Mapping[str, Any]] = {
        "augment": "none",
        "num_masked": 0,
        "mask_rate": 0.0,
    }

    source: str
    pipeline: str = "image_text"
    options: Annotated[Mapping[str, Any], plugins.OptionsOf("data.pipelines", by="pipeline")] = (
        dataclasses.field(default_factory=dict)
    )
    num_examples: int | None = 500
    batch_size: int = 100
    seed: int = 0

    @property
    def sources(self) -> Sequence[str]:
        """Where the examples come from."""
        return (self.source,)

    def check(self) -> None:
        """Opens every source and makes one batch of the examples.

        Raises:
            ValueError: a source without a usable record. Whatever opening it raises.
        """
        for source in self.sources:
            next(self.records(source, 1), None)
        loader = self._loader(self.source)
        count = min(self.num_examples or loader.records, loader.records)
        part = self.passes.processes.part(count)
        made = itertools.islice(loader.examples(part, self.rng), self.batch_size)
        if part and not sum(1 for _ in made):
            raise _passes.nothing_usable(loader)

    def load(self, source: str | None = None, count: int | None = None) -> Pass:
        """This process's part of the examples, or of the first `count` of another source.

        Raises:
            ValueError: the source holds no usable record.
        """
        source, count = source or self.source, count or self.num_examples
        options = repr(sorted(self.pipeline_options.items()))
        key = (source, self.pipeline, options, count, self.seed, id(self.tokenizer))
        return self.passes.get(key, lambda: self._loader(source), count, self.rng)

    def ask(
        self,
        apply: Apply,
        fn: Any,
        params: Any,
        rows: Mapping[str, np.ndarray],
        *,
        images: np.ndarray | None = None,
        keep: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """What `fn(net, batch)` says of the rows of all processes, whose own ones are `rows`.

        Args:
            apply, fn, params, rows, images: as for `in_batches`; `fn` returns a dict. A process
                without rows gives an empty dict.
            keep: names of `rows` that come back as well.
        """
        found = {}
        if rows:
            found = in_batches(apply, fn, params, rows, self.rows, images=images)
            found |= {name: rows[name] for name in keep}
        return self.passes.processes.gather(found)

    def records(self, source: str, count: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yields (index, record) of this process's part of `count` records, if readable.

        They are spread evenly over the source: many are in order of their class, or of their kind.
        """
        opened = open_source(source)
        count = min(count, len(opened))
        for place in self.passes.processes.part(count):
            index = place * len(opened) // count
            try:
                record = opened[index]
            except skips.Skip as skip:
                named = name_record(opened, source, index)
                logging.warning("evaluation on %s skips %s: %s", source, named, skip)
                continue
            yield index, record

    @property
    def rows(self) -> int:
        """`batch_size`, or as many more as it takes that all devices share a batch."""
        return self.batch_size + -self.batch_size % self.passes.shards

    def rng(self, index: int) -> np.random.Generator:
        """The random numbers of row `index`, the same in every run."""
        return np.random.default_rng([self.seed, index])

    def tokens(self, text: str, index: int) -> dict[str, np.ndarray] | None:
        """`text i32[L]` and `text_mask bool[L]` of another text; None (and a log line) if unusable.

        The pipeline must be one of `TextOptions`, as those with a text are.
        """
        pipeline, rng = self.made_pipeline, self.rng(index)
        try:
            return text_of(pipeline.text_arrays(pipeline.pick_text(text, rng), rng))
        except skips.Skip as skip:
            logging.warning(
                "evaluation on %s leaves out a text of row %d: %s", self.source, index, skip
            )
            return None

    @functools.cached_property
    def made_pipeline(self) -> Any:
        """The pipeline, made at its first use."""
        plugin = pipelines.load(self.pipeline)
        what = f"evaluation on {self.source}"
        return pipelines.make(plugin, self.pipeline_options, tokenizer=self.tokenizer, what=what)

    @property
    def pipeline_options(self) -> dict[str, Any]:
        """`options`, and where they say nothing `option_defaults`."""
        known = pipelines.options_of(pipelines.load(self.pipeline))
        defaults = {name: value for name, value in self.option_defaults.items() if name in known}
        return {**defaults, **self.options}

    def _loader(self, source: str) -> Loader:
        config = {"pipeline": self.pipeline, "source": source, "batch_size": 1, "max_skip": 1.0}
        return Loader(
            f"evaluation on {source}",
            config | self.pipeline_options,
            seed=self.seed,
            tokenizer=self.tokenizer,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(HeldOut):
    """Reads training data as well, to learn from it or to know what a guess would reach.

    Attributes:
        train_source: source string of it.
        train_examples: how many of its records are used: to learn from, the first ones; to count,
            so many spread over all of it.
    """

    train_source: str
    train_examples: int = 5000

    @property
    def sources(self) -> Sequence[str]:
        """Where the examples come from, and the training data."""
        return (self.source, self.train_source)


def check(name: str, evaluator: Evaluator) -> None:
    """Opens the data of an evaluator and makes a batch of it, so that no run ends for want of it.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        evaluator.check()
    except Exception as error:
        text = f"evaluator {name!r} cannot be run: {type(error).__name__}: {error}"
        raise ValueError(text) from error


def run_all(evaluators: Mapping[str, Evaluator], apply: Apply, params: Any) -> Results:
    """Runs every evaluator; metrics are prefixed with its name ("retrieval/...")."""
    metrics, examples, left = [], {}, dict(evaluators)
    for name, evaluator in evaluators.items():
        evaluator.examples.clear()
        for metric in evaluator.run(apply, params):
            metrics.append(metric._replace(name=f"{name}/{metric.name}"))
        if evaluator.examples:
            examples[name] = list(evaluator.examples)
        del left[name]
        evaluator.passes.keep({source for later in left.values() for source in later.sources})
    return Results(metrics, examples)


def share(name: str, hits: Any, *, chance: float | None = None, chance_is: str = "") -> Metric:
    """A metric from right and wrong answers, bool[N] or bool[N M]; the error is over the N.

    With one answer for each example the error is the binomial one.
    """
    metric = mean(name, np.asarray(hits, np.float64), chance=chance, chance_is=chance_is)
    return metric._replace(unit="%")


def mean(
    name: str,
    values: Any,
    *,
    chance: float | None = None,
    chance_is: str = "",
    better: str = "higher",
) -> Metric:
    """A metric that is the mean of values f[N] or f[N M], with its standard error over the N."""
    values = np.asarray(values, np.float64)
    values = values.reshape(len(values), -1).mean(axis=1)
    error = float(values.std() / math.sqrt(len(values)))
    return Metric(name, float(values.mean()), chance, chance_is, error, "", better)


def captions(record: Mapping[str, Any]) -> list[str]:
    """All captions of a record, whose `text` is one string or a list."""
    text = record["text"]
    return [text] if isinstance(text, str) else list(text)


def caption(record: Mapping[str, Any]) -> str:
    """The first caption of a record."""
    return captions(record)[0]


def text_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The text of a pipeline's arrays: text i32[L] and text_mask bool[L]."""
    return {"text": arrays["text"], "text_mask": arrays["text_mask"]}
