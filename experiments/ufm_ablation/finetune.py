"""Fine-tuning on held-out tasks: digits from few labels, and the sentiment of sentences.

The pre-trained tokenizer and encoder under a fresh head: a linear layer from zero on the class
token for images (ViT); pooler, tanh, dropout and a linear layer for text (BERT). All is trained.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from experiments.ufm_ablation import arms, corpus, learner
from experiments.ufm_ablation.corpus import Corpus
from experiments.ufm_ablation.sizes import Sizes
from unified_fm import rules
from unified_fm.models import base as models
from unified_fm.models import ufm
from unified_fm.models.heads import ClassHead, PooledHead
from unified_fm.objectives import base as objectives
from unified_fm.objectives.base import Output, row_weights, weighted_mean

TASKS = {"digits": "image", "sentiment": "text"}  # task: the stream whose tokenizer it needs
_ORDER = {"digits": 10, "sentiment": 11}  # numbers of their random orders


class Model(models.Model):
    """UFM under a head for one task.

    Attributes:
        backbone: options of `models/ufm.py`.
        stream: "image" or "text".
        classes: of the task.
    """

    backbone: Mapping[str, Any]
    stream: str
    classes: int

    def setup(self):
        self.ufm = ufm.Model(**self.backbone)
        head = ClassHead if self.stream == "image" else PooledHead
        self.head = head(self.classes)

    def __call__(self, batch):
        return self.ufm(batch)

    def logits(self, views):
        """f32[B C] of the first slot: the class token, or [CLS]."""
        return self.head((views.image if self.stream == "image" else views.text)[:, 0])


@dataclasses.dataclass(frozen=True)
class Objective(objectives.Objective):
    """Cross-entropy of `label i32[B]`; the metric `accuracy`."""

    def __call__(self, net, views, batch) -> Output:
        logits, labels = net.logits(views), batch["label"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        weights = row_weights(batch, len(logits))
        mean, denominator = weighted_mean(loss, weights)
        accuracy, _ = weighted_mean(logits.argmax(-1) == labels, weights)
        return Output(loss=mean, denominator=denominator, metrics={"accuracy": accuracy})


class Tuner:
    """Fine-tunes on one task; compiled once, used for every arm."""

    def __init__(self, task: str, sizes: Sizes, data: Corpus, *, mapping: str = "auto"):
        """Draws the labelled examples and their order, the same for every arm."""
        self._task, self._sizes = task, sizes
        rows: Mapping[str, corpus.Rows] = getattr(data, _FIELDS[task])
        self._train, self._test = rows["train"], rows["test"]
        self._chosen = _chosen(task, sizes, self._train["label"])
        options = {**arms.student(sizes, data), "classes": None}
        classes = 1 + int(self._train["label"].max())
        config = arms.tuning_config(
            sizes,
            model=dict(name=__name__, backbone=options, stream=TASKS[task], classes=classes),
            objective=__name__,
        )
        self._learner = learner.Learner(config, tuple(range(sizes.seeds)), mapping)
        self._measure = learner.Measure(self._learner.model, _accuracy, mapping)
        self._fresh = self._learner.init(next(self._batches()))

    def run(self, pretrained: Any | None) -> np.ndarray:
        """Accuracy f64[S] on the test set.

        Args:
            pretrained: parameters f32[S ...] of UFM; None = from scratch.
        """
        params = self._fresh if pretrained is None else transplant(self._fresh, pretrained)
        trained = self._learner.train(params, self._batches(), self._task)
        return self._measure(trained.params, self._test)["accuracy"]

    def _batches(self):
        return ({"task": batch} for batch in corpus.batches(self._train, self._chosen))


def transplant(fresh: Any, pretrained: Any) -> Any:
    """The parameters `fresh` with those below "ufm" taken from `pretrained`.

    Raises:
        KeyError: pre-training had no such parameter.
    """
    there = dict(rules.named_leaves(pretrained))

    def leaf(path, new):
        name = rules.path_name(path)
        return there[name.removeprefix("ufm/")] if name.startswith("ufm/") else new

    return jax.tree.map_with_path(leaf, fresh)


_FIELDS = {"digits": "digits", "sentiment": "sentences"}


def _chosen(task, sizes, labels) -> np.ndarray:
    """Which examples each step takes, i32[steps S B]; of digits each seed knows only a few."""
    order = corpus.order(
        sizes.labelled if task == "digits" else len(labels),
        seeds=sizes.seeds,
        steps=sizes.tune_steps,
        batch=sizes.tune_batch,
        stream=_ORDER[task],
    )
    if task != "digits":
        return order
    known = [few(labels, sizes.labelled, seed) for seed in range(sizes.seeds)]
    return np.stack([known[seed][order[:, seed]] for seed in range(sizes.seeds)], axis=1)


def few(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices i32[count] of labelled examples, equally many of every class (or one more)."""
    rng = np.random.default_rng([seed, 12])
    ranks = np.empty(len(labels), np.int64)  # of each example within its class, at random
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        ranks[places] = rng.permutation(len(places))
    return np.argsort(ranks, kind="stable")[:count].astype(np.int32)


def _accuracy(net, batch):
    output = Objective()(net, net(batch), batch)
    return {"accuracy": (output.metrics["accuracy"], output.denominator)}
