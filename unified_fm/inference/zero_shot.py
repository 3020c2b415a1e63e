"""Classes without training: the texts of a class stand for it."""

from collections.abc import Callable, Sequence

import numpy as np

from unified_fm import queries
from unified_fm.inference import features
from unified_fm.inference.items import Items
from unified_fm.inference.pairs import Pairs
from unified_fm.inference.parts import Parts

Told = list[tuple[str, float]]


def classify(
    parts: Parts,
    items: Items,
    labels: Sequence[str],
    templates: Sequence[str],
    rerank: int,
    on_error: str,
) -> list[Told | None]:
    """(label, probability) of every label for each image, the most probable first.

    The softmax is over cosines at the temperature of the training. With `rerank` so many of the
    best share the probability that they have together by how well they match the image.

    Raises:
        ValueError: no labels or templates, or a template without {}. BadItem: an item that is no
            image; a str is the path of one.
    """
    if rerank < 0 or rerank == 1:
        raise ValueError(f"rerank is {rerank}; 0, or at least the 2 best are ranked again")

    def encode(prompts: list[str]) -> np.ndarray:
        texts = features.of_texts(parts, Items("labels", prompts, False), "raise")
        return np.stack([np.asarray(text) for text in texts])

    classes = class_features(encode, labels, templates)
    scale = float(parts.programs.ask(queries.scale, {}))
    found = features.of_images(parts, items, on_error)
    logits = {n: scale * (classes @ image) for n, image in enumerate(found) if image is not None}
    again: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    if rerank:
        best = {n: np.argsort(-own, kind="stable")[:rerank] for n, own in logits.items()}
        again = _matched(parts, items, prompts_of(labels, templates), best)
    return [
        shares(list(labels), logits[n], again.get(n)) if n in logits else None
        for n in range(len(found))
    ]


def class_features(
    encode: Callable[[list[str]], np.ndarray], labels: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """f32[C E]: the mean of the features of a class's texts, each of length 1, and so the mean.

    Args:
        encode: texts -> their features f[P E].
        labels: names of the classes.
        templates: with {} for the name.

    Raises:
        ValueError: no labels or templates, or a template without {}.
    """
    if isinstance(labels, str) or not len(labels) or isinstance(templates, str) or not templates:
        raise ValueError("labels and templates are lists of at least one str each")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates: {template!r} has no {{}} for the name of the class")
    prompts = [template.replace("{}", str(label)) for label in labels for template in templates]
    each = encode(prompts).reshape(len(labels), len(templates), -1)
    means = [np.mean([features.unit(text) for text in own], axis=0) for own in each]
    return np.stack([features.unit(mean) for mean in means]).astype(np.float32)


def prompts_of(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """The text of each class that is matched with an image: of the first template."""
    return [templates[0].replace("{}", str(label)) for label in labels]


def shares(
    names: Sequence[str],
    logits: np.ndarray,
    again: tuple[np.ndarray, np.ndarray] | None = None,
) -> Told:
    """(name, probability) by the softmax of logits f[C], the most probable first.

    Args:
        names: of the classes.
        logits: of all.
        again: some of the best i[K] and other logits f[K] of them, by which they are ordered and
            share what probability they have together; they come first.
    """
    probabilities = _softmax(logits)
    order = np.argsort(-probabilities, kind="stable")
    if again is not None:
        best, margins = again
        place = np.argsort(-margins, kind="stable")
        probabilities[best] = probabilities[best].sum() * _softmax(margins)
        order = np.concatenate([best[place], order[~np.isin(order, best)]])
    return [(str(names[n]), float(probabilities[n])) for n in order]


def _softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _matched(
    parts: Parts, items: Items, prompts: list[str], best: dict[int, np.ndarray]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{image: its best classes i[K], how well their prompts match it as logits f[K]}."""
    parts.abilities.need("match")
    rows = features.tokens(parts, Items("labels", prompts, False), "raise", about_image=True)
    asked = [(n, int(k)) for n, own in best.items() for k in own]
    told = iter(Pairs(parts, items, "raise").ask(queries.match, rows, asked))
    return {n: (own, np.array([next(told)["margin"] for _ in own])) for n, own in best.items()}
