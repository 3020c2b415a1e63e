"""What predicts the classes of a test set from frozen features: linear, k-NN, mlp5, zero-shot."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified_fm.evaluators import knn
from unified_fm.inference import zero_shot
from unified_fm.probing.cache import Rows
from unified_fm.probing.prompts import Prompts
from unified_fm.probing.splits import Parts
from unified_fm.tasks._metrics import classification
from unified_fm.tasks._probes import deep, linear
from unified_fm.tasks.probe_sets import PER_CLASS

LINEAR, NEIGHBOURS, DEEP, ZERO_SHOT = "linear", "knn", "mlp5", "zero-shot"
METHODS = (LINEAR, NEIGHBOURS, DEEP, ZERO_SHOT)
BEST = 5  # labels of a prediction, as far as a method orders them
TEMPERATURE = 0.07  # of the neighbours' votes
_IMAGES = 32  # whose best classes are matched at once

Told = Callable[[str], None]


class Said(NamedTuple):
    """What a method predicts.

    Attributes:
        predictions: of each test row its labels, the best one first.
        settings: what the numbers depend on, and what was chosen.
        notes: what has to be said beside them.
    """

    predictions: list[list[str]]
    settings: dict[str, Any]
    notes: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Of the methods.

    Attributes:
        standardise: whether the linear probe's features are.
        neighbours: of `knn`.
        rerank: how many of the best classes the matching head orders again in `zero-shot`.
        seed: of `mlp5`.
    """

    standardise: bool = False
    neighbours: int = 20
    rerank: int = 0
    seed: int = 0


def by_regression(parts: Parts, metric: str, options: Options, told: Told) -> Said:
    """CLIP's linear probe; see `tasks/_probes/linear.py`."""
    names, train, validation, classes = _numbered(parts)

    def line(tried: linear.Tried) -> None:
        told(f"C = {tried.c:.3g}: validation {100 * tried.score:.2f} %, {tried.steps} steps")

    found = linear.probe(
        *(train, validation, classes, measure(metric)),
        standardise=options.standardise,
        told=line,
    )
    settings = {
        "C": found.c,
        "standardised": options.standardise,
        "tried": [one._asdict() for one in found.tried],
        "steps": found.fit.steps,
        "distance": found.fit.distance,
    }
    notes = []
    if found.c in (10.0 ** linear.COARSE[0], 10.0 ** linear.COARSE[-1]):
        notes.append(f"C = {found.c:g} is at the end of what is tried")
    if not linear.Tried(found.c, 0.0, found.fit.steps).converged:
        notes.append(f"not converged after {linear.STEPS} steps of L-BFGS")
    return Said(_best(found.logits(parts.test.features), names), settings, notes)


def by_neighbours(parts: Parts, metric: str, options: Options, told: Told) -> Said:
    """The vote of the nearest neighbours among training and validation; nothing is chosen."""
    del metric, told
    known = parts.known
    names = list(dict.fromkeys(known.labels))
    numbers = numbered(known.labels, names)
    chosen = knn.votes(
        *(known.features, numbers, parts.test.features, options.neighbours, TEMPERATURE)
    )
    settings = {"neighbours": min(options.neighbours, len(known)), "temperature": TEMPERATURE}
    return Said([[names[k]] for k in chosen], settings, [])


def by_deep_head(
    parts: Parts, metric: str, recipe: deep.Recipe, options: Options, told: Told
) -> Said:
    """X-FM's five layers; see `tasks/_probes/deep.py`."""
    names, train, validation, classes = _numbered(parts)
    last = recipe.epochs

    def line(epoch: int, score: float) -> None:
        if epoch % max(1, last // 10) == 0 or epoch == last:
            told(f"epoch {epoch} of {last}: validation {100 * score:.2f} %")

    found = deep.probe(
        *(train, validation, classes, measure(metric), recipe), seed=options.seed, told=line
    )
    settings = {
        **dataclasses.asdict(recipe),
        "seed": options.seed,
        "epoch": found.epoch,
        "validation": found.scores[found.epoch - 1],
    }
    notes = [] if found.epoch < last else ["the last epoch is the best: more may be better"]
    return Said(_best(found.logits(parts.test.features), names), settings, notes)


def by_texts(
    test: Rows,
    prompts: Prompts,
    encode: Callable[[list[str]], np.ndarray],
    match: Callable[[list[int], list[str]], np.ndarray] | None,
    options: Options,
    told: Told,
) -> Said:
    """Zero-shot: the class whose texts are nearest.

    Args:
        test: rows with features in the space that images and texts share.
        prompts: names and templates.
        encode: texts -> features in that space.
        match: (record numbers, texts) -> how well each pair fits; needed to rank again.
        options: of these `rerank`.
        told: called with lines about the progress.
    """
    told(f"{len(prompts.names):,} classes, {len(prompts.templates)} templates")
    classes = zero_shot.class_features(encode, prompts.names, prompts.templates)
    cosines = test.features @ classes.T
    count = min(max(BEST, options.rerank), len(prompts.labels))
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    if options.rerank > 1 and match is not None:
        best = _matched(test, prompts, match, best, options.rerank, told)
    texts = zero_shot.prompts_of(prompts.names, prompts.templates)
    settings = {"rerank": options.rerank, "templates": list(prompts.templates), "prompts": texts}
    predictions = [[prompts.labels[int(k)] for k in row[:BEST]] for row in best]
    return Said(predictions, settings, list(prompts.notes))


def measure(metric: str) -> linear.Measure:
    """The metric of a set as a function of predicted and true numbers."""
    of = classification.mean_per_class if metric == PER_CLASS else classification.accuracy
    return lambda said, truth: of(said.tolist(), truth.tolist()).value


def numbered(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """i64[N]: the place of each label in `names`; one that is not there has the number after."""
    place = {name: k for k, name in enumerate(names)}
    return np.array([place.get(label, len(names)) for label in labels], np.int64)


def _numbered(parts: Parts) -> tuple:
    """(names of the training classes, (features, labels) of training and of validation, number)."""
    names = list(dict.fromkeys(parts.train.labels))
    train = parts.train.features, numbered(parts.train.labels, names)
    validation = parts.validation.features, numbered(parts.validation.labels, names)
    return names, train, validation, len(names)


def _best(logits: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    order = np.argsort(-logits, axis=1, kind="stable")[:, :BEST]
    return [[names[int(k)] for k in row] for row in order]


def _matched(test, prompts, match, best, rerank, told) -> np.ndarray:
    """The first `rerank` of `best` i[N K] in the order of their match."""
    texts = zero_shot.prompts_of(prompts.names, prompts.templates)
    found = best.copy()
    for start in range(0, len(best), _IMAGES):
        own = best[start : start + _IMAGES, :rerank]
        numbers = [int(n) for n in np.repeat(test.numbers[start : start + _IMAGES], own.shape[1])]
        scores = np.reshape(match(numbers, [texts[k] for k in own.ravel()]), own.shape)
        order = np.argsort(-scores, axis=1, kind="stable")
        found[start : start + len(own), :rerank] = np.take_along_axis(own, order, axis=1)
        told(f"{min(start + _IMAGES, len(best)):,} of {len(best):,} pictures matched")
    return found
