"""Mixtures: which of several sources a slot takes its record from, and which record of it.

    weights=[3, 1]                                 three records of the first for one of the second
    weights=[(0, [3, 1]), (10_000, [1, 1])]        ... and from step 10,000 on as many of both

(in a run's config a stage may also begin at "50%" of it, see `config.durations`)

The slots come in blocks, in which each source has exactly its share, spread evenly: any stretch has
its share to within a record or two. So how often a source was met before a slot is arithmetic, and
the slot's record is the next one of that source's own epochs. A slot is a pure function of the seed
and its number; all that is held is a block or two, however many records there are.
"""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from unified_fm.data.order import Order, Visit, example_rng

_BLOCK = 4096  # slots of a block, about
_FINEST = 2**16  # shares are kept to this part of the whole, and blocks are no longer than this


class Stage(NamedTuple):
    """From a step on, how often each source is met.

    Attributes:
        step: the first one.
        counts: records of each source in `sum(counts)` slots.
    """

    step: int
    counts: tuple[int, ...]


def read(weights: Sequence[Any], sources: int, where: str, *, cycle: int = 0) -> list[Stage]:
    """The stages of a stream's `weights`.

    Args:
        weights: a number for each source, or (first step, such numbers) for each stage.
        sources: how many there are.
        where: what messages call it.
        cycle: of the stream.

    Raises:
        ValueError: not of this form, another number of sources, a source that is never met, or
            stages of a stream that comes in cycles.
    """
    staged = any(isinstance(each, Sequence) and not isinstance(each, str) for each in weights)
    stages = [_stage(each, sources, where) for each in (weights if staged else [(0, weights)])]
    steps = [stage.step for stage in stages]
    if not steps or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ValueError(
            f"{where}: the stages begin at the steps {steps}; the first begins at 0, each other one"
            " after the one before"
        )
    if len(stages) > 1 and cycle:
        raise ValueError(
            f"{where}: a stream that repeats after cycle={cycle} epochs has no later stages; found"
            f" {len(stages)}"
        )
    for number in range(sources):
        if not any(stage.counts[number] for stage in stages):
            raise ValueError(
                f"{where}: source {number + 1} of {sources} has the weight 0 in all stages: leave"
                " it out"
            )
    return stages


class Mixture:
    """The order of a stream of several sources, which lie one after the other.

    Attributes:
        records: of all sources together; so many slots are an epoch of the stream.
        lengths: records of each source.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        stages: Sequence[Stage],
        *,
        batch: int,
        seed: int,
        shuffle: bool,
    ):
        """Nothing is made before a slot is asked for.

        Args:
            lengths: records of each source.
            stages: from `read`.
            batch: slots of a step.
            seed: of the order.
            shuffle: else each source keeps its order, and they take turns.
        """
        self.lengths = tuple(lengths)
        self.records = sum(lengths)
        self._starts = list(itertools.accumulate(lengths, initial=0))
        self._seed, self._shuffle = seed, shuffle
        self._orders = [
            Order(length, seed=_seed_of(seed, number), shuffle=shuffle, table=False)
            for number, length in enumerate(lengths)
        ]
        self._block = functools.lru_cache(maxsize=4)(self._made_block)
        self._stages: list[_Stretch] = []
        for stage in stages:
            start = stage.step * batch
            self._stages.append(_Stretch(start, (0,) * len(self.lengths), stage.counts))
            if len(self._stages) > 1:  # what the stages before it have met
                before = self._met(start, len(self._stages) - 2)
                self._stages[-1] = dataclasses.replace(self._stages[-1], before=before)

    @property
    def form(self) -> dict[str, Any]:
        """What a checkpoint keeps of how the order is made."""
        form: dict[str, Any] = {"order": "mixture", "parts": list(self.lengths)}
        if len(self._stages) > 1:
            form["stages"] = [[stage.start, *stage.counts] for stage in self._stages]
        return form

    def epoch(self, slot: int) -> int:
        """The epoch of the stream that a slot belongs to."""
        return slot // self.records

    def index(self, slot: int) -> int:
        """The record in a slot."""
        return self.visit(slot).index

    def visit(self, slot: int) -> Visit:
        """The record in a slot, the epoch of its source, and the records of that source."""
        stage = self._stage_of(slot)
        stretch = self._stages[stage]
        number, place = divmod(slot - stretch.start, stretch.length)
        sources, ranks = self._block(stage, number)
        source = int(sources[place])
        nth = stretch.before[source] + number * stretch.counts[source] + int(ranks[place])
        epoch, record, _ = self._orders[source].visit(nth)
        start, end = self._starts[source], self._starts[source + 1]
        return Visit(epoch, start + record, range(start, end))

    def met(self, slots: int) -> tuple[int, ...]:
        """How many records of each source stand in the first `slots` slots."""
        return self._met(slots, self._stage_of(slots))

    def _stage_of(self, slot: int) -> int:
        return bisect.bisect_right(self._stages, slot, key=lambda stretch: stretch.start) - 1

    def _met(self, slots: int, stage: int) -> tuple[int, ...]:
        stretch = self._stages[stage]
        number, place = divmod(slots - stretch.start, stretch.length)
        inside = np.bincount(self._block(stage, number)[0][:place], minlength=len(self.lengths))
        return tuple(
            before + number * count + int(more)
            for before, count, more in zip(stretch.before, stretch.counts, inside, strict=True)
        )

    def _made_block(self, stage: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each slot of a block its source, and how many of that source stand before it there.

        Of c records the nth lies in the nth of c equal stretches, at a place that is drawn.
        """
        counts = self._stages[stage].counts
        sources = np.repeat(np.arange(len(counts)), counts)
        ranks = np.concatenate([np.arange(count) for count in counts])
        drawn = 0.5
        if self._shuffle:
            drawn = example_rng(_seed_of(self._seed, -1), stage, number).random(len(sources))
        places = (ranks + drawn) / np.repeat(counts, counts)
        order = np.argsort(places, kind="stable")
        return sources[order].astype(np.int32), ranks[order].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """The slots of a stage: the first one, what was met before it, and the counts of a block."""

    start: int
    before: tuple[int, ...]
    counts: tuple[int, ...]

    @functools.cached_property
    def length(self) -> int:
        return sum(self.counts)


def _stage(given: Any, sources: int, where: str) -> Stage:
    form = (
        f"{where} is a list of {sources} numbers, one for each source, or of stages (first step,"
        f" such a list)"
    )
    try:
        step, weights = given
        weights = list(weights)
    except (TypeError, ValueError):
        raise ValueError(f"{form}; found {given!r}") from None
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"{form}; found a stage that begins at {step!r}")
    if len(weights) != sources:
        raise ValueError(f"{form}; found {len(weights)}: {weights!r}")
    for weight in weights:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"{form}; a weight is a number of at least 0, found {weight!r}")
    if not any(weights):
        raise ValueError(f"{form}; all weights of a stage are 0")
    return Stage(step, _counts(weights))


def _counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Records of each source in a block: as the weights say, or nearly if they are very uneven."""
    exact = [Fraction(str(weight)) for weight in weights]  # 0.1 is a tenth
    shares = [weight / sum(exact) for weight in exact]
    whole = math.lcm(*(share.denominator for share in shares))
    if whole <= _FINEST:
        whole *= max(1, _BLOCK // whole)
        return tuple(int(share * whole) for share in shares)
    counts = [max(round(share * _FINEST), share > 0) for share in shares]
    return tuple(int(count) for count in counts)


def _seed_of(seed: int, source: int) -> int:
    """The seed of a source's own order; of the blocks for -1."""
    return int(example_rng(seed, source, -2).integers(2**62))
