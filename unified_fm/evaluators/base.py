"""What evaluators share: the metric record, held-out data, static batches, the table.

An evaluator is a frozen dataclass named `Evaluator` with `run(apply, params) -> Iterator[Metric]`,
and with `check()`, called before the first step, if it reads data.
`apply(fn, params, batch, rngs=None)` comes from outside: it runs `fn(net, batch)` inside a jitted
`nn.apply` of the model. `fn` is a function of a module or a frozen dataclass, never a new closure,
so that it is compiled once for each shape of `batch`, which may be any tree of arrays.
"""

import dataclasses
import functools
import inspect
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import plugins
from unified_fm.data import skips
from unified_fm.data.source import name_record, open_source


class Apply(Protocol):
    """Runs `fn(net, batch)` in a jitted `nn.apply` with these parameters.

    `teachers` are names of teachers of the run, whose targets `fn` then finds in its batch; an
    evaluator that asks any says so in a property `teachers`.
    """

    def __call__(
        self, fn: Any, params: Any, batch: Any, rngs: Any = None, teachers: Sequence[str] = ()
    ) -> Any: ...


class Metric(NamedTuple):
    """One number of an evaluation, beside what a guess without the model would reach.

    Attributes:
        name: what was measured; the run prefixes the evaluator's name ("retrieval/...").
        value: the result; a share is kept in 0..1 and shown in percent.
        chance: the same measure of the best guess without the model; None: there is none.
        chance_is: how that guess was made ("random order", "best constant box").
        error: standard error of `value` over the examples (binomial for a share).
        unit: "%" for a share, "" for a plain number.
        better: "higher" or "lower".
    """

    name: str
    value: float
    chance: float | None = None
    chance_is: str = ""
    error: float | None = None
    unit: str = ""
    better: str = "higher"


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


class Results(NamedTuple):
    """What `run_all` returns: metrics with full names, report examples by evaluator."""

    metrics: list[Metric]
    examples: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out examples of an evaluator: the same ones in the same order at every call.

    Attributes:
        source: the source string ("demo:scenes/test", "jsonl:captions.jsonl").
        pipeline: name of the pipeline, which is given `options` and the tokenizer.
        options: keywords of the pipeline. Where they do not say otherwise, nothing is augmented or
            masked.
        num_examples: how many records are used, from the first on; fewer if the source is shorter.
        batch_size: rows per compiled call.
        seed: of the random choices of the evaluation.
        tokenizer: the run's tokenizer.
        examples: filled by `run`, for the report.
    """

    quiet: ClassVar[Mapping[str, Any]] = {"augment": "none", "num_masked": 0, "mask_rate": 0.0}

    source: str
    pipeline: str = "image_text"
    options: Annotated[Mapping[str, Any], plugins.OptionsOf("data.pipelines", by="pipeline")] = (
        dataclasses.field(default_factory=dict)
    )
    num_examples: int = 500
    batch_size: int = 100
    seed: int = 0
    tokenizer: Any = None
    examples: list[Any] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def check(self) -> None:
        """Opens every source of the evaluator and makes one batch of its examples.

        Raises:
            ValueError: a source without a usable record. Whatever opening it raises.
        """
        for _ in itertools.islice(self.load(), self.batch_size):
            pass
        # A second source (`train_source`) is known by its name.
        for field in dataclasses.fields(self):
            if field.name.endswith("_source"):
                next(self.records(getattr(self, field.name), 1), None)

    def load(self) -> Iterator[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
        """Yields (record, arrays) of every usable record.

        Raises:
            ValueError: the source holds no usable record.
        """
        yield from self.load_from(self.source, self.num_examples)

    def load_from(
        self, source: str, count: int
    ) -> Iterator[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
        """Yields (record, arrays) of the first `count` records of another source."""
        seen = skips.Skips(f"evaluation on {source}", max_skip=1.0)
        opened = open_source(source)
        for problem, file in getattr(opened, "problems", ()):
            seen.leave_out(problem, file)
        for index in range(min(count, len(opened))):
            record = None
            try:
                record = opened[index]
                arrays = self.prepare(record, index)
            except skips.Skip as skip:
                seen.skip(skip, functools.partial(name_record, opened, source, index, record))
                continue
            seen.use()
            yield record, arrays
        if not seen.used:
            raise ValueError(f"no usable record in {source!r}\n{seen.table()}")
        if seen.lossy:
            logging.warning("%s", seen.table())

    def records(self, source: str, count: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yields (index, record) of the readable ones of the first `count` records."""
        opened = open_source(source)
        for index in range(min(count, len(opened))):
            try:
                record = opened[index]
            except skips.Skip as skip:
                named = name_record(opened, source, index)
                logging.warning("evaluation on %s skips %s: %s", source, named, skip)
                continue
            yield index, record

    def prepare(self, record: Mapping[str, Any], index: int) -> dict[str, np.ndarray]:
        """The pipeline's arrays of one record, with the random numbers of row `index`."""
        return self.made_pipeline(record, self.rng(index))

    def rng(self, index: int) -> np.random.Generator:
        """The random numbers of row `index`, the same in every run."""
        return np.random.default_rng([self.seed, index])

    def tokens(self, text: str, index: int) -> dict[str, np.ndarray] | None:
        """`text i32[L]` and `text_mask bool[L]` of another text; None (and a log line) if unusable.

        The pipeline must have `pick_text` and `text_arrays`, as those with a text have.
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
        options = {**self.pipeline_options, "tokenizer": self.tokenizer}
        return plugins.build("data.pipelines", self.pipeline, **options)

    @property
    def pipeline_options(self) -> dict[str, Any]:
        """`options`, and where they say nothing what keeps the pipeline quiet."""
        known = inspect.signature(plugins.load("data.pipelines", self.pipeline)).parameters
        quiet = {name: value for name, value in self.quiet.items() if name in known}
        return {**quiet, **self.options}

    @property
    def metric_names(self) -> Sequence[str] | None:
        """The names of the metrics that `run` may yield; None: it does not say so beforehand."""
        return None


def check(name: str, evaluator: Any) -> None:
    """Opens the data of an evaluator and makes a batch of it, so that no run ends for want of it.

    An evaluator that reads no data of its own has no `check()`.

    Raises:
        ValueError: it cannot be read.
    """
    opened = getattr(evaluator, "check", None)
    if opened is None:
        return
    try:
        opened()
    except Exception as error:
        text = f"evaluator {name!r} cannot be run: {type(error).__name__}: {error}"
        raise ValueError(text) from error


def run_all(evaluators: Mapping[str, Any], apply: Apply, params: Any) -> Results:
    """Runs every evaluator; metrics are prefixed with its name ("retrieval/...")."""
    metrics, examples = [], {}
    for name, evaluator in evaluators.items():
        for metric in evaluator.run(apply, params):
            metrics.append(metric._replace(name=f"{name}/{metric.name}"))
        if getattr(evaluator, "examples", None):
            examples[name] = list(evaluator.examples)
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


def stack(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stacks the arrays of many examples; all have the same keys and shapes."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def padded(rows: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Repeats the first row until there are `size`, so that every call has the same shape."""

    def pad(array):
        missing = size - len(array)
        return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array

    return {key: pad(array) for key, array in rows.items()}


def in_batches(
    apply: Apply,
    fn: Any,
    params: Any,
    rows: Mapping[str, np.ndarray],
    size: int,
    *,
    images: np.ndarray | None = None,
    on_device: bool = False,
) -> Any:
    """Runs `fn(net, batch)` over all rows in batches of `size` and joins what it returns.

    Args:
        rows: arrays with the examples leading; the last batch is padded and its padding dropped.
        images: u8[I H W 3]; the batch then has `image`, the ones that `rows["image_row"]` names.
            So an image that several rows share is kept once.
        on_device: keep the results where they were computed instead of fetching them.

    Returns:
        The tree that `fn` returns, each leaf with one row per example.
    """
    total = len(next(iter(rows.values())))
    size = min(size, total)
    parts = []
    for start in range(0, total, size):
        count = min(size, total - start)
        batch = padded({key: array[start : start + size] for key, array in rows.items()}, size)
        if images is not None:
            batch["image"] = images[batch["image_row"]]
        result = apply(fn, params, batch)
        parts.append(jax.tree.map(lambda leaf, n=count: leaf[:n], result))
    if on_device:
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves]), *parts)
