"""Classes without training: the texts of a class stand for it."""

from collections.abc import Sequence

import numpy as np

from unified_fm import queries
from unified_fm.inference import features
from unified_fm.inference.items import IMAGES, Items, kind_of
from unified_fm.inference.parts import Parts


def classify(
    parts: Parts, items: Items, labels: Sequence[str], templates: Sequence[str], on_error: str
) -> list[list[tuple[str, float]] | None]:
    """(label, probability) of every label for each image, the most probable first.

    A class is the mean of the features of its texts, each of length 1 before and the mean after
    (CLIP). The softmax is over cosines at the temperature of the training.

    Raises:
        ValueError: no labels or templates, a template without {}, or items that are no images.
    """
    if isinstance(labels, str) or not len(labels) or isinstance(templates, str) or not templates:
        raise ValueError("labels and templates are lists of at least one str each")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates: {template!r} has no {{}} for the name of the class")
    if items.values and kind_of(items) != IMAGES:
        raise ValueError("labels are for images; found texts (labels=None: the head of the run)")
    prompts = [template.replace("{}", str(label)) for label in labels for template in templates]
    texts = features.of_texts(parts, Items("labels", prompts, False), "raise")
    each = np.stack([np.asarray(text) for text in texts]).reshape(len(labels), len(templates), -1)
    classes = np.stack([features.unit(own.mean(axis=0)) for own in each])
    scale = float(parts.programs.ask(queries.scale, {}))
    found = []
    for image in features.of_images(parts, items, on_error):
        found.append(None if image is None else shares(list(labels), scale * (classes @ image)))
    return found


def shares(names: Sequence[str], logits: np.ndarray) -> list[tuple[str, float]]:
    """(name, probability) by the softmax of logits f[C], the most probable first."""
    logits = logits.astype(np.float64)
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    order = np.argsort(-probabilities, kind="stable")
    return [(str(names[n]), float(probabilities[n])) for n in order]
