"""What the objectives of several streams say, with few and large passes through the model.

The model is asked once for the views of all streams. Objectives that yield `Fuse` then stop at that
line; what all of them ask for goes through the fusion encoder together, and each goes on with its
own rows.
"""

import dataclasses
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import chex
import jax

from unified_fm.models.base import Ask
from unified_fm.models.memory import Fusing
from unified_fm.models.passes import named_key
from unified_fm.objectives.base import Fuse, Objective, Output, predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """What is asked of one stream.

    Attributes:
        objectives: {name in the log: objective}.
        weights: {name in the log: weight of its loss, or the peak of one that changes}.
        groups: of rows that may refer to each other (a region's image, a negative); None = one.
    """

    objectives: Mapping[str, Objective]
    weights: Mapping[str, float]
    groups: int | None = None

    @property
    def reads(self) -> Mapping[str, bool]:
        """{view that an objective reads: whether a gradient flows into it}."""
        found: dict[str, bool] = {}
        for objective in self.objectives.values():
            for view, flows in objective.reads.items():
                found[view] = found.get(view, False) or flows
        return found

    @property
    def refers(self) -> bool:
        """Whether an objective lets rows look at others of their group."""
        return any(objective.refers for objective in self.objectives.values())

    @property
    def ema_reads(self) -> frozenset[str]:
        """The views of the averaged parameters that its objectives read as a teacher's."""
        return frozenset().union(*(fn.ema_reads for fn in self.objectives.values()))

    def check(self, name: str, model: Any, keys: Collection[str]) -> None:
        """Refuses an objective that the model or the batches cannot serve; traces nothing.

        Args:
            name: of the stream.
            model: Linen module.
            keys: names of the arrays in a batch.

        Raises:
            ValueError: with what the batches have, and what the model gives of them.
        """
        given = model.gives(keys)
        whose = type(model).__module__
        for key, objective in self.objectives.items():
            what = f"objective {key!r} of stream {name!r}"
            missing = sorted({*objective.reads, *objective.ema_reads} - given)
            if missing:
                raise ValueError(
                    f"{what} reads {', '.join(missing)}, which {whose} does not give here: it "
                    f"gives {', '.join(sorted(given)) or 'nothing'} of batches with "
                    f"{', '.join(sorted(keys))}"
                )
            missing = sorted({*objective.encodes} - {*model.views})
            if missing:
                raise ValueError(
                    f"{what} encodes a batch itself and needs {', '.join(missing)}, which {whose} "
                    f"never gives: of the views it has {', '.join(sorted(model.views))}"
                )


def lessons(streams: Mapping[str, Stream]) -> dict[str, dict[str, set[str]]]:
    """{teacher: {stream: which of the teacher's arrays its objectives read}}."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, stream in streams.items():
        for objective in stream.objectives.values():
            for teacher, lesson in objective.lessons.items():
                found.setdefault(teacher, {}).setdefault(name, set()).add(lesson.key)
    return found


Outputs = dict[str, dict[str, Output]]  # {stream: {objective: output}}


def outputs(
    model: Any,
    streams: Mapping[str, Stream],
    params: Any,
    ema: Any,
    batches: Mapping[str, Mapping[str, Any]],
    rng: jax.Array,
    *,
    dropout: bool = True,
    joint: bool = True,
) -> Outputs:
    """What the objectives of some streams say of their batches.

    Args:
        model: Linen module.
        streams: {name: what is asked of it}.
        params: parameter tree.
        ema: its moving average; may be None where no objective reads it.
        batches: {stream: batch}, with what teachers say.
        rng: of this step (and micro-batch).
        dropout: whether anything is dropped.
        joint: let what can be joined go through the encoders together.
    """
    asks, nets, given = {}, {}, {}
    for name, stream in streams.items():
        # By the stream's name, so that a stream draws the same whatever the others are.
        own = jax.random.fold_in(rng, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        rngs = dict(zip(("dropout", "objective"), jax.random.split(own), strict=True))
        if not dropout:
            del rngs["dropout"]
        nets[name] = model.bind({"params": params}, rngs=rngs)
        asks[name] = Ask(reads=stream.reads, groups=stream.groups or 1, key=rngs.get("dropout"))
        given[name] = batches[name]

    given |= _averaged(model, streams, ema, given, joint)
    views = model.bind({"params": params}).encode(given, asks, joint=joint)
    started = {
        (name, key): objective(nets[name], views[name], given[name])
        for name, stream in streams.items()
        for key, objective in stream.objectives.items()
    }
    keys = {(name, key): named_key(asks[name].key, key) for name, key in started}
    found = answered(started, nets, keys, joint=joint)
    chex.assert_rank(jax.tree.leaves(found), 0)
    return {
        name: {key: found[name, key] for key in stream.objectives}
        for name, stream in streams.items()
    }


def predictions(
    model: Any, stream: Stream, key: str, params: Any, batch: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """What the objective `key` of a stream predicts for the rows of a batch; nothing is dropped."""
    net, objective = model.bind({"params": params}), stream.objectives[key]
    ask = Ask(reads=objective.reads, groups=stream.groups or 1)
    views = net.encode({"": batch}, {"": ask})[""]
    return predicted(net, objective, views, batch)


def answered(
    started: Mapping[tuple[str, str], Any],
    nets: Mapping[str, Any],
    keys: Mapping[tuple[str, str], Any],
    *,
    joint: bool,
) -> dict[tuple[str, str], Output]:
    """Answers objectives that have asked for fusion states, until each has its value.

    Args:
        started: {(stream, objective): an output, or a generator that yields `Fuse`}.
        nets: {stream: the model, bound}.
        keys: {(stream, objective): key of dropout, or None}.
        joint: let what is asked for at the same time go through the encoder together.
    """
    found = {name: made for name, made in started.items() if isinstance(made, Output)}
    running = {name: made for name, made in started.items() if name not in found}
    answers: dict[Any, Any] = dict.fromkeys(running)
    turn = 0
    while running:
        asked: dict[tuple[str, str], Any] = {}
        for name, generator in list(running.items()):
            try:
                asked[name] = generator.send(answers[name])
            except StopIteration as end:
                found[name] = end.value
                del running[name]
        fused = _fused(
            {
                name: [
                    _fusing(request, named_key(keys[name], f"{turn}/{place}"))
                    for place, request in enumerate(_several(requests))
                ]
                for name, requests in asked.items()
            },
            nets,
            joint,
        )
        for name, requests in asked.items():
            answers[name] = fused[name][0] if isinstance(requests, Fuse) else fused[name]
        turn += 1
    return found


def _fused(
    asked: Mapping[tuple[str, str], list[Fusing]], nets: Mapping[str, Any], joint: bool
) -> dict[tuple[str, str], list[Any]]:
    if not joint or not asked:
        return {name: nets[name[0]].fuse_together(own) for name, own in asked.items()}
    # All nets have the same parameters, and every request has a key of its own.
    net = nets[next(iter(asked))[0]]
    states = iter(net.fuse_together([request for own in asked.values() for request in own]))
    return {name: [next(states) for _ in own] for name, own in asked.items()}


def _several(requests: Any) -> tuple[Fuse, ...]:
    return (requests,) if isinstance(requests, Fuse) else tuple(requests)


def _fusing(request: Fuse, key: Any) -> Fusing:
    return Fusing(**vars(request), key=key)


def _averaged(
    model: Any, streams: Mapping[str, Stream], ema: Any, batches: Mapping[str, Any], joint: bool
) -> dict[str, Any]:
    """The batches of which an objective reads what the averaged parameters say, with that."""
    asks = {
        name: Ask(reads=dict.fromkeys(sorted(stream.ema_reads), False), groups=stream.groups or 1)
        for name, stream in streams.items()
        if stream.ema_reads
    }
    if not asks:
        return {}
    given = {name: batches[name] for name in asks}
    # Without keys: nothing is dropped of a teacher.
    views = model.bind({"params": ema}).encode(given, asks, joint=joint)
    return {name: with_ema(given[name], views[name], asks[name].reads) for name in asks}


def with_ema(batch: Mapping[str, Any], views: Any, names: Collection[str]) -> dict[str, Any]:
    """The batch with those views of the averaged parameters, as from a teacher "ema"."""
    seen = jax.lax.stop_gradient({name: vars(views)[name] for name in names})
    return {**batch, "teacher": {**batch.get("teacher", {}), "ema": seen}}
