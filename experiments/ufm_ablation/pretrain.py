"""Pre-training: the two teachers, what they say about the data, and the arms."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.ufm_ablation import arms, corpus, learner
from experiments.ufm_ablation.corpus import Corpus
from experiments.ufm_ablation.sizes import Sizes
from unified_fm.objectives import classify, mlm
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers.cache_writer import Writer, used_of

STREAMS = ("image", "text")
TEACHERS = {"vit": "image", "bert": "text"}
_KEYS = {"vit": "image", "bert": "mlm"}  # what they teach, by its name in `models/targets.py`
_ASKED = 256  # rows of a batch when a teacher is asked


def rows(data: Corpus, stream: str, split: str) -> corpus.Rows:
    """The examples of a stream."""
    return {"image": data.images, "text": data.texts}[stream][split]


def start(streams: tuple[str, ...], sizes: Sizes, data: Corpus, mapping: str = "auto") -> Any:
    """New parameters f32[S ...] of a student of these streams: the same in every arm.

    They depend on the seed and on the parameter's name alone.
    """
    name = next(n for n, arm in arms.ARMS.items() if arm.streams == streams)
    config = arms.config(name, sizes, data, {})
    made = learner.Learner(config, tuple(range(sizes.seeds)), mapping=mapping)
    return made.init(next(_batches(data, streams, sizes, {})))


def train_arm(
    name: str,
    params: Any,
    sizes: Sizes,
    data: Corpus,
    caches: Mapping[str, Path],
    mapping: str = "auto",
) -> learner.Trained:
    """Pre-trains all seeds of an arm, from the parameters that `start` gives."""
    config = arms.config(name, sizes, data, caches)
    made = learner.Learner(config, tuple(range(sizes.seeds)), mapping=mapping)
    opened = {}
    if arms.ARMS[name].distil:
        opened = {teacher: teacher_cache.open_cache(caches[teacher]) for teacher in TEACHERS}
    return made.train(params, _batches(data, arms.ARMS[name].streams, sizes, opened), name)


def train_teacher(name: str, sizes: Sizes, data: Corpus) -> tuple[Any, dict[str, float]]:
    """Trains a teacher: its parameters f32[1 ...], and its measurements on held-out data."""
    config = arms.teacher_config(name, sizes, data)
    made = learner.Learner(config, (1000,))  # a seed that no student has
    chosen = _order(data, TEACHERS[name], 1, sizes.teacher_steps, sizes.batch, first=20)
    stream = TEACHERS[name]

    def batches():
        for batch in corpus.batches(rows(data, stream, "train"), chosen):
            yield {stream: batch}

    trained = made.train(made.init(next(batches())), batches(), f"teacher {name}")
    found = Measures(made.model, data)(trained.params, [stream])
    return trained.params, {key: float(values[0]) for key, values in found.items()}


class Measures:
    """Cross-entropy and accuracy on the held-out examples of each stream."""

    def __init__(self, model: Any, data: Corpus, mapping: str = "auto"):
        """Takes a student or a teacher."""
        self._data = data
        self._of = {
            stream: learner.Measure(model, score, mapping) for stream, score in _SCORES.items()
        }

    def __call__(self, params: Any, streams: Iterable[str]) -> dict[str, np.ndarray]:
        """{"image_loss", "image_accuracy", "text_loss", "text_accuracy"}, f64[S] each."""
        return {
            f"{stream}_{key}": values
            for stream in streams
            for key, values in self._of[stream](params, rows(self._data, stream, "test")).items()
        }


def write_cache(folder: Path, name: str, params: Any, sizes: Sizes, data: Corpus) -> None:
    """Asks a teacher about every example of pre-training; whole or not at all.

    The masks of a passage are drawn once, so what the teacher says about it is said once and for
    all seeds and arms. The folder is as `unified_fm/teachers/cache.py` describes it, a slot being
    an example.
    """
    stream, key = TEACHERS[name], _KEYS[name]
    model = learner.Learner(arms.teacher_config(name, sizes, data), (0,)).model
    params = jax.tree.map(lambda x: x[0], params)
    classes = {"vit": data.classes, "bert": data.words}[name]
    top = classes if name == "vit" else sizes.top
    needs = [("kl", {"vit": sizes.image_temperature, "bert": sizes.text_temperature}[name])]

    @jax.jit
    def best(batch):
        logits = model.apply({"params": params}, batch, method="targets")[key]
        return teacher_cache.best(logits, top, needs)

    examples = rows(data, stream, "train")
    total = len(next(iter(examples.values())))
    writer = Writer(folder)
    writer.begin(stream, slots=total, needs={key: needs})
    for start in range(0, total, _ASKED):
        batch = {k: x[np.arange(start, start + _ASKED) % total] for k, x in examples.items()}
        used = np.asarray(used_of(batch, key, _ASKED))
        writer.add(stream, key, start, jax.device_get(best(batch)), used=used, classes=classes)
    writer.finish()
    logging.info("teacher %s has said what it thinks about %d examples", name, total)


def _batches(data, streams, sizes, opened) -> Iterator[dict[str, Any]]:
    orders = {
        stream: _order(data, stream, sizes.seeds, sizes.steps, sizes.batch) for stream in streams
    }
    for step in range(sizes.steps):
        batches = {}
        for stream, order in orders.items():
            chosen = order[step]
            batch = {key: array[chosen] for key, array in rows(data, stream, "train").items()}
            for teacher, cache in opened.items():
                if TEACHERS[teacher] == stream:
                    batch["cached"] = {teacher: cache.rows(stream, chosen)}
            batches[stream] = batch
        yield batches


def _order(data, stream, seeds, steps, batch, first=0):
    size = len(next(iter(rows(data, stream, "train").values())))
    number = first + STREAMS.index(stream)
    return corpus.order(size, seeds=seeds, steps=steps, batch=batch, stream=number)


def _score(objective):
    def score(net, batch):
        output = objective(net, net(batch), batch)
        means = {"loss": output.loss, "accuracy": output.metrics["accuracy"]}
        return {key: (value, output.denominator) for key, value in means.items()}

    return score


_SCORES = {"image": _score(classify.Objective()), "text": _score(mlm.Objective())}
