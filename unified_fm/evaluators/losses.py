"""The training losses on held-out batches: each stream's objectives, without dropout.

The streams are configured as in training (batch sizes too, since contrastive losses depend on
them), with held-out sources. There is no chance level: the curves of the training losses are what
these numbers are compared with.

Objectives that are taught ask the run's teachers, as in training, or its moving average. A teacher
that was read from a cache has nothing to say about other data than that of training: it is refused.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax

from unified_fm import plugins
from unified_fm.data.streams import Streams
from unified_fm.evaluators import base
from unified_fm.evaluators.base import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Mean of every objective of every stream over the same `batches` batches at each call.

    Attributes:
        streams: {name: stream as `data.streams.stream` makes it}.
        batches: of each stream.
        seed: of the data's and the objectives' random choices.
        tokenizer: the run's tokenizer.
    """

    streams: Annotated[Mapping[str, Mapping[str, Any]], plugins.LikeSetting("streams")]
    batches: int = 8
    seed: int = 0
    tokenizer: Any = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        return tuple(f"{s}/{o}" for s, entry in self.streams.items() for o in entry["objectives"])

    @property
    def teachers(self) -> tuple[str, ...]:
        """The run's teachers that the objectives ask; "ema" is the model's own average."""
        built = [Losses.build(stream).teachers for stream in self.streams.values()]
        return tuple(dict.fromkeys(name for names in built for name in names))

    def check(self) -> None:
        """Opens the streams and makes one batch of each. Raises what opening them raises."""
        with contextlib.closing(self._streams()) as streams:
            next(streams)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields "stream/objective", and "stream/objective/term" for losses of several terms."""
        asked = {name: Losses.build(stream) for name, stream in self.streams.items()}
        sums: dict[str, float] = collections.defaultdict(float)
        weights: dict[str, float] = collections.defaultdict(float)
        with contextlib.closing(self._streams()) as streams:
            for number, batches in zip(range(self.batches), streams, strict=False):
                rng = jax.random.fold_in(jax.random.key(self.seed), number)
                for name, losses in asked.items():
                    asked_too = {"teachers": losses.teachers} if losses.teachers else {}
                    rngs = {"objective": rng}
                    terms = apply(losses, params, batches[name], rngs=rngs, **asked_too)
                    for term, (loss, denominator) in jax.device_get(terms).items():
                        sums[f"{name}/{term}"] += float(loss) * float(denominator)
                        weights[f"{name}/{term}"] += float(denominator)
        for name, total in sums.items():
            yield Metric(name, total / max(weights[name], 1e-12), better="lower")

    def _streams(self) -> Streams:
        return Streams(self.streams, seed=self.seed, tokenizer=self.tokenizer)


@dataclasses.dataclass(frozen=True)
class Losses:
    """`fn(net, batch)` for `apply`: {"objective" or "objective/term": (mean, denominator)}."""

    objectives: tuple[tuple[str, Any], ...]

    @classmethod
    def build(cls, stream: Mapping[str, Any]) -> "Losses":
        """The objectives of a stream's config; their weights play no part here."""
        built = []
        for name, options in stream["objectives"].items():
            options = dict(options) if isinstance(options, Mapping) else {}
            options.pop("weight", None)
            plugin = options.pop("name", name)
            built.append((name, plugins.build("objectives", plugin, **options)))
        return cls(tuple(built))

    @property
    def teachers(self) -> tuple[str, ...]:
        """Those that the objectives name (`teacher=`), and "ema" if it is the target of one."""
        objectives = [objective for _, objective in self.objectives]
        named = [getattr(o, "teacher", None) for o in objectives]
        named += ["ema" for o in objectives if getattr(o, "target", None) == "ema"]
        return tuple(dict.fromkeys(name for name in named if name))

    def __call__(self, net: Any, batch: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        views = net(batch)
        terms = {}
        for name, objective in self.objectives:
            output = objective(net, views, batch)
            terms[name] = (output.loss, output.denominator)
            terms |= {f"{name}/{part}": pair for part, pair in output.parts.items()}
        return terms
