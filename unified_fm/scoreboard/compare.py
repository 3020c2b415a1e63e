"""From finished cells to a row: means over seeds, intervals over examples, the difference."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unified_fm.scoreboard import lines as scored_lines
from unified_fm.scoreboard import row
from unified_fm.scoreboard.cell import Finished
from unified_fm.scoreboard.row import Row, Value
from unified_fm.tasks._metrics import bootstrap, statistic
from unified_fm.tasks._scoring.scored import Scored


class Measured(NamedTuple):
    """What a task's row is about.

    Attributes:
        task, labels, split: as of the row.
        kind: of the lines (`lines.KINDS`).
        metrics: of the score, one row each; none: its headline.
        published: {metric: {system: value}}.
    """

    task: str
    labels: str
    split: str
    kind: str
    metrics: Sequence[str] = ()
    published: Mapping[str, Mapping[str, float]] = {}


def rows(
    about: Measured,
    *,
    trivial: Sequence[Finished],
    scratch: Sequence[Finished],
    pre_trained: Sequence[Finished],
    teacher: Sequence[Finished] = (),
    missing: str = "",
) -> list[Row]:
    """The rows of a task, one for each metric; arms without cells leave their columns empty.

    Args:
        about: the task.
        trivial: its baselines, of which the best one counts for each metric.
        scratch, pre_trained, teacher: a cell for each seed; compared are seeds that both have.
        missing: why a baseline is not there.

    Raises:
        ValueError: no cell at all, or cells of other test examples.
    """
    arms = {"trivial": trivial, "scratch": scratch, "pre-trained": pre_trained, "teacher": teacher}
    cells = [cell for arm in arms.values() for cell in arm]
    if not cells:
        raise ValueError(f"{about.task}: no cell is finished")
    ids = [str(line["id"]) for line in cells[0].lines]
    for cell in cells:
        if [str(line["id"]) for line in cell.lines] != ids:
            raise ValueError(
                f"{cell.cell.title} has {len(cell.lines)} test examples, {cells[0].cell.title} has"
                f" {len(ids)}, or in another order: they cannot be compared"
            )
    scores = {cell.key: scored_lines.score(about.kind, cell.lines) for cell in cells}
    names = about.metrics or [next(iter(scores[cells[0].key].statistics))]
    return [_row(about, name, arms, scores, missing) for name in names]


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows of a board with Holm's p: of many differences some exclude 0 by chance.

    Corrected for are the differences to scratch of all rows, which may depend on one another.
    """
    p = {
        str(number): bootstrap.p_of(each.difference.value, *each.difference.ci95)
        for number, each in enumerate(rows)
        if each.difference is not None and each.difference.ci95 is not None
    }
    found = bootstrap.holm(p)
    return [
        dataclasses.replace(each, holm_p=found.get(str(number))) for number, each in enumerate(rows)
    ]


def _row(
    about: Measured,
    name: str,
    arms: Mapping[str, Sequence[Finished]],
    scores: Mapping[str, Scored],
    missing: str,
) -> Row:
    cells = [cell for arm in arms.values() for cell in arm]
    first = scores[cells[0].key]
    trivial = max(
        (_value([cell], scores, name, cell.cell.config) for cell in arms["trivial"]),
        key=lambda found: found.value,
        default=None,
    )
    scratch, pre_trained, teacher = (
        _value(arms[arm], scores, name) if arms[arm] else None
        for arm in ("scratch", "pre-trained", "teacher")
    )
    chance = first.chance.get(name)
    # Records that a model could not use are known to its evaluator alone.
    notes = [*first.notes, *(note for cell in cells for note in cell.facts.get("notes", ()))]
    difference, said = None, row.MISSING
    if scratch is not None and pre_trained is not None:
        difference = _difference(arms["pre-trained"], arms["scratch"], scores, name)
        if difference is not None:
            said = row.judged(difference, pre_trained, trivial, chance)
    above = None
    if pre_trained is not None and pre_trained.ci95 and chance is not None:
        above = pre_trained.ci95[0] > chance
    return Row(
        task=about.task,
        labels=about.labels,
        split=about.split,
        n=_examples(first, name),
        metric=name,
        unit=first.statistics[name].unit,
        chance=chance,
        chance_is=first.chance_is,
        trivial=trivial,
        trivial_missing=missing,
        scratch=scratch,
        pre_trained=pre_trained,
        difference=difference,
        teacher=teacher,
        from_teacher=_difference(arms["pre-trained"], arms["teacher"], scores, name),
        says=said,
        above_chance=above,
        published=about.published.get(name, {}),
        hashes={
            "config": _different(cell.hashes.config for cell in cells),
            "data": _different(cell.hashes.data for cell in cells),
            "checkpoint": _different(cell.hashes.checkpoint for cell in arms["pre-trained"]),
            "teacher": _different(cell.hashes.checkpoint for cell in arms["teacher"]),
        },
        seconds=sum(cell.seconds for cell in cells),
        tested=len(cells),
        notes=list(dict.fromkeys(notes)),
    )


def _value(
    cells: Sequence[Finished], scores: Mapping[str, Scored], name: str, title: str = ""
) -> Value:
    """The mean over the seeds, and its interval over examples that all seeds share."""
    each = {str(cell.cell.seed): scores[cell.key].statistics[name] for cell in cells}
    first = scores[cells[0].key]
    mean = statistic.average(list(each.values())) if len(each) > 1 else next(iter(each.values()))
    found = bootstrap.interval(
        mean, units=first.units, unit=first.unit, resamples=first.resamples, seed=0
    )
    return Value(
        value=found.value,
        ci95=(found.low, found.high),
        seeds={seed: one.value for seed, one in each.items()},
        title=title,
    )


def _difference(
    ours: Sequence[Finished],
    theirs: Sequence[Finished],
    scores: Mapping[str, Scored],
    name: str,
) -> Value | None:
    """Of the seeds that both have, on the same examples; None if there is no such seed."""
    mine, other = ({cell.cell.seed: cell for cell in arm} for arm in (ours, theirs))
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None
    first = scores[ours[0].key]
    both = [[scores[arm[seed].key].statistics[name] for seed in seeds] for arm in (mine, other)]
    found = bootstrap.difference(
        statistic.average(both[0]),
        statistic.average(both[1]),
        units=first.units,
        unit=first.unit,
        resamples=first.resamples,
        seed=0,
    )
    pairs = zip(seeds, both[0], both[1], strict=True)
    return Value(
        value=found.value,
        ci95=(found.low, found.high),
        seeds={str(seed): a.value - b.value for seed, a, b in pairs},
    )


def _examples(scored: Scored, name: str) -> int:
    """How many examples a metric is of: those of one split or of one type, where it is of these."""
    found = scored.statistics[name]
    if found.additive and found.rows.shape[1] == 2:  # hits, and what they are a share of
        return round(found.rows[:, 1].sum())
    return next(iter(scored.counts.values()))


def _different(hashes) -> list[str]:
    return sorted({each for each in hashes if each})
