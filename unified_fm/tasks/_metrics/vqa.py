"""VQA v2's soft accuracy, as the official evaluator computes it, overall and by answer type.

An answer that n of ten annotators gave has 0, 0.3, 0.6, 0.9, 1, 1, ... for n = 0, 1, 2, 3, 4, ...:
the mean, over the annotators, of min(1, matches among the other nine / 3).

If all ten agree, nothing is normalised: "The cat" against ten "cat" is wrong, against nine "cat"
and one "dog" right. So answers should be given in lower case and without articles.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unified_fm import choices
from unified_fm.tasks._metrics import statistic
from unified_fm.tasks._metrics.statistic import Statistic
from unified_fm.tasks._metrics.vqa_answers import normalise, strip, without_punctuation

VERSIONS = ("2021", "2016")
_ENOUGH = 3  # matches among the others for a full point
_Points = tuple[dict[str, float], Callable[[str], str]]


def accuracy(prediction: str, answers: Sequence[str], version: str = "2021") -> float:
    """The accuracy of one answer, 0 to 1.

    Args:
        prediction: as the model gave it.
        answers: of the annotators, as the file has them.
        version: "2021", the evaluator's last commit; "2016", the copies inside ALBEF, X-VLM and
            LAVIS, which always normalise the prediction, and of the truth the punctuation only.

    Raises:
        ValueError: no answers, or another version.
    """
    points, compare = _points(answers, choices.check("version", version, VERSIONS))
    return points.get(compare(prediction), 0.0)


def per_example(
    predictions: Sequence[str], truth: Sequence[Sequence[str]], version: str = "2021"
) -> np.ndarray:
    """f64[N]: `accuracy` of each."""
    if len(predictions) != len(truth):
        raise ValueError(f"{len(predictions)} answers for {len(truth)} questions")
    pairs = zip(predictions, truth, strict=True)
    return np.array([accuracy(p, answers, version) for p, answers in pairs])


def measures(
    predictions: Sequence[str],
    truth: Sequence[Sequence[str]],
    types: Sequence[str] = (),
    version: str = "2021",
) -> dict[str, Statistic]:
    """`accuracy`, and `accuracy/yes/no`, `accuracy/number`, `accuracy/other` where types are given.

    Args:
        predictions: an answer to each question.
        truth: ten answers of each.
        types: the `answer_type` of each question.
        version: as for `accuracy`.
    """
    found = per_example(predictions, truth, version)
    return {"accuracy": statistic.share(found), **by_type(found, types)}


def by_type(values: np.ndarray, types: Sequence[str]) -> dict[str, Statistic]:
    """The mean of each type's values; a row of 0 for the examples of other types."""
    named = np.asarray(types)
    return {
        f"accuracy/{kind}": statistic.of_sums(
            np.stack([values * (named == kind), named == kind], axis=1),
            statistic.quotient,
            unit="%",
        )
        for kind in sorted(set(types))
    }


def metrics(
    predictions: Sequence[str],
    truth: Sequence[Sequence[str]],
    types: Sequence[str] = (),
    version: str = "2021",
) -> dict[str, float]:
    """The numbers of `measures`, 0 to 1."""
    return statistic.values(measures(predictions, truth, types, version))


def chance(
    truth: Sequence[Sequence[str]], types: Sequence[str] = (), version: str = "2021"
) -> tuple[str, dict[str, float]]:
    """The best constant answer, and what constants reach: that one, and of each type its own best.

    What the question alone tells reaches far more: a scoreboard has that beside it.
    """
    known = [_points(answers, version) for answers in truth]
    best, everywhere = _best_constant(known)
    reached = {"accuracy": everywhere}
    for kind in sorted(set(types)):
        members = [one for one, of in zip(known, types, strict=True) if of == kind]
        reached[f"accuracy/{kind}"] = _best_constant(members)[1]
    return best, reached


def soft_targets(answers: Sequence[str], classes: Mapping[str, int]) -> dict[int, float]:
    """{class: 0.3, 0.6, 0.9 or 1} of the answers that are classes, by how many gave them.

    The targets of a classifier. `classes` is {answer: its place in the list}.
    """
    counts = Counter(normalise(answer) for answer in answers)
    return {
        classes[answer]: min(10, 3 * count) / 10
        for answer, count in counts.items()
        if answer in classes
    }


def _best_constant(known: Sequence[_Points]) -> tuple[str, float]:
    """The answer that gathers most points, and its mean accuracy."""
    total: Counter[str] = Counter()
    for points, _ in known:
        total.update(points)
    best, _ = total.most_common(1)[0]
    return best, float(np.mean([points.get(compare(best), 0.0) for points, compare in known]))


def _points(answers: Sequence[str], version: str) -> _Points:
    """The points of every answer that has some, and how a prediction is written to compare it."""
    if not answers:
        raise ValueError("a question without answers cannot be scored")
    compare: Callable[[str], str] = normalise
    if version == "2016":
        some = len(set(answers)) > 1
        truth = [without_punctuation(answer) for answer in answers] if some else answers
    else:
        truth = [strip(answer) for answer in answers]
        if len(set(truth)) > 1:
            truth = [normalise(answer) for answer in truth]
        else:
            compare = strip
    total = len(truth)
    return {a: _mean_point(n, total) for a, n in Counter(truth).items()}, compare


def _mean_point(matches: int, total: int) -> float:
    """The mean over the annotators; to one who gave the answer, the matches are one less."""
    of_match, of_other = min(1.0, (matches - 1) / _ENOUGH), min(1.0, matches / _ENOUGH)
    return (matches * of_match + (total - matches) * of_other) / total
