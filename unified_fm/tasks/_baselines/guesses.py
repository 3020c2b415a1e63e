"""What no look at the input gives: the most frequent label or caption, the mean score."""

import collections
from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._baselines.base import Example
from unified_fm.tasks._metrics import classification


def majority(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """The most frequent label of training, for all."""
    label, _ = classification.majority([example["label"] for example in train])
    return [int(str(label))] * len(test)


def constant_caption(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """The most frequent caption of training, for all; of equally frequent ones the first."""
    texts = (example["text"] for example in train)
    said = [c for text in texts for c in ([text] if isinstance(text, str) else text)]
    return [collections.Counter(said).most_common(1)[0][0]] * len(test)


def mean(train: Sequence[Example], test: Sequence[Example]) -> list[float]:
    """The mean score of training, for all: its correlation is none."""
    return [float(np.mean([example["label"] for example in train]))] * len(test)
