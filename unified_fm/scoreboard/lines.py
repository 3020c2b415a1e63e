"""From the predictions of a cell to a score: by kind of task, as its evaluator scores them.

A kind is what `tasks/_scoring/lines.py` reads, "glue TASK", or "retrieval", whose lines have the
names of candidates, best first, and of the matches: `tasks/_scoring/rankings.py`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.tasks._metrics import glue as glue_metrics
from unified_fm.tasks._metrics import retrieval
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring import rankings
from unified_fm.tasks._scoring.lines import Lines
from unified_fm.tasks._scoring.scored import Scored


def score(kind: str, lines: Sequence[Mapping[str, Any]]) -> Scored:
    """The score of the lines of one set of predictions, as JSON has them.

    Raises:
        ValueError: an unknown kind, lines of another one, or some without a truth.
    """
    scored = KINDS[choices.check("kind of predictions", kind, KINDS)]
    fields = ", ".join(lines[0]) if lines else "nothing"
    try:
        if any(line["truth"] is None for line in lines):
            raise KeyError("truth")
        return scored(lines)
    except KeyError as error:
        raise ValueError(f"predictions of {kind} need {error}; a line has {fields}") from error


def rankings_of(scores: np.ndarray, ids: Sequence[Any], captions: Sequence[int]) -> list[dict]:
    """Lines of a retrieval, those of the images first, as the evaluator writes them.

    Args:
        scores: f[I T], of both directions.
        ids: of the images.
        captions: how many each has.
    """
    called = rankings.names(ids, captions)
    own = [[f"{i}#{n}" for n in range(k)] for i, k in zip(called.images, captions, strict=True)]
    image_of = np.repeat(np.arange(len(ids)), captions)
    owners = [[called.images[i]] for i in image_of]
    found: list[dict] = []
    listed = rankings.LISTED
    for query, (queries, candidates), x, truth in (
        ("image", called, scores, own),
        ("caption", called[::-1], scores.T, owners),
    ):
        best = retrieval.top(x, listed + 1)
        ranking = rankings.Ranking(best, np.take_along_axis(x, best, axis=1))
        found += rankings.as_lines(query, queries, candidates, ranking, truth, listed)
    return found


def _of(scored: Callable[[Lines], Scored]) -> Callable[[Sequence[Mapping[str, Any]]], Scored]:
    return lambda lines: scored([of_lines.of_fields(line) for line in lines])


KINDS: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], Scored]] = {
    "vqa": _of(of_lines.vqa),
    "nlvr2": _of(of_lines.nlvr2),
    "refcoco": _of(of_lines.refcoco),
    "classification": _of(of_lines.classification),
    "captions": _of(of_lines.captions),
    "retrieval": rankings.measured,
    **{f"glue {t}": _of(functools.partial(of_lines.glue, task=t)) for t in glue_metrics.METRICS},
}
