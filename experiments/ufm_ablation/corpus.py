"""The demo corpus as arrays in memory: what pre-training draws from, and what is measured on.

Everything is tokenised, masked and composed once, by the pipelines of the library; a batch is then
a gather. Letters: N examples, S seeds, B rows of a batch, L tokens, K hidden tokens.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from experiments.ufm_ablation.sizes import Sizes
from unified_fm import plugins
from unified_fm.data import skips
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.source import open_source
from unified_fm.demo import corpus
from unified_fm.evaluators.mlm import unigram

Rows = Mapping[str, np.ndarray]  # arrays with the examples leading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """All data of the experiment.

    Attributes:
        images, texts: {"train", "test"} of pre-training: `image u8[N H W 3]`, `label i32[N]`, and
            `text_masked i32[N L]` with its masks, positions and ids.
        digits, sentences: {"train", "test"} of fine-tuning; `label i32[N]`.
        words: number of ids of the tokenizer.
        classes: of the images of pre-training.
        floors: what a guess without looking reaches, {metric: number}.
    """

    images: Mapping[str, Rows]
    texts: Mapping[str, Rows]
    digits: Mapping[str, Rows]
    sentences: Mapping[str, Rows]
    words: int
    classes: int
    floors: Mapping[str, float]


def load(sizes: Sizes) -> Corpus:
    """Prepares the parts of the demo corpus that are missing, and reads them."""
    corpus.prepare(parts=("text", "objects", sizes.tokenizer, "mnist", "sentiment"))
    tokenizer = tokenizers.load(corpus.folder() / sizes.tokenizer)
    pixels = {"size": sizes.image_size, "patch_size": sizes.patch_size}
    quiet = {**pixels, "augment": "none", "num_masked": 0}
    words = {"tokenizer": tokenizer, "max_len": sizes.max_len}
    hiding = {"max_masked": sizes.max_masked, "mask_rate": sizes.mask_rate}
    masked = plugins.build("data.pipelines", "text", **words, **hiding)
    digit = plugins.build("data.pipelines", "classify", **quiet)
    sentence = plugins.build("data.pipelines", "classify", inputs="text", **words)

    texts = {
        "train": read("text/train", masked, sizes.passages),
        "test": read("text/val", masked, sizes.held_out),
    }
    images = {
        "train": compose("train", sizes, sizes.images),
        "test": compose("test", sizes, sizes.held_out),
    }
    digits = {"train": read("mnist/train", digit)}
    digits["test"] = join(read("mnist/val", digit), read("mnist/test", digit))
    sentences = {split: read(f"sentiment/{at}", sentence) for split, at in _SPLITS.items()}
    return make(images, texts, digits, sentences, tokenizer.is_special)


_SPLITS = {"train": "train", "test": "val"}


def make(images, texts, digits, sentences, is_special: np.ndarray) -> Corpus:
    """Makes the corpus of its arrays; `is_special` bool[V] marks the ids that are never hidden."""
    counts = np.bincount(texts["train"]["text"].reshape(-1), minlength=len(is_special))
    logs = unigram(np.where(is_special, 0, counts))
    hidden = texts["test"]["masked_ids"]
    floors = {
        "image_loss": entropy(images["train"]["label"]),
        "image_accuracy": majority(images["test"]["label"]),
        "text_loss": float(-logs[hidden[hidden >= 0]].mean()),
        "digits": majority(digits["test"]["label"]),
        "sentiment": majority(sentences["test"]["label"]),
    }
    return Corpus(
        images=images,
        # What no objective reads would only be copied to the device.
        texts={s: {k: v for k, v in rows.items() if k != "text"} for s, rows in texts.items()},
        digits=digits,
        sentences=sentences,
        words=len(is_special),
        classes=1 + int(images["train"]["label"].max()),
        floors=floors,
    )


def read(what: str, pipeline: Any, count: int | None = None) -> dict[str, np.ndarray]:
    """`count` usable examples (None: all) of `demo:what`, spread over the whole source."""
    source = open_source(f"demo:{what}")
    order = np.random.default_rng(0).permutation(len(source))
    rows: list[dict[str, np.ndarray]] = []
    for index in tqdm.tqdm(order[:count], desc=what, disable=None, mininterval=1):
        try:
            rows.append(pipeline(source[int(index)], np.random.default_rng([1, int(index)])))
        except skips.Skip:
            continue
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def compose(split: str, sizes: Sizes, count: int) -> dict[str, np.ndarray]:
    """Images of one drawing each at a random place and size, on a plain ground, and which it is."""
    options = f"size={sizes.image_size}&min_side={sizes.min_side}&max_side={sizes.max_side}"
    source = open_source(f"demo:objects/{split}?{options}&length={count}")
    number = {name: i for i, name in enumerate(source.names)}
    images, labels = [], []
    for index in tqdm.trange(count, desc=f"objects/{split}", disable=None, mininterval=1):
        example = source[index]
        images.append(example["image"])
        labels.append(number[example["objects"][0]])
    return {"image": np.stack(images), "label": np.array(labels, np.int32)}


def join(*parts: Rows) -> dict[str, np.ndarray]:
    """All examples of several sets."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def order(size: int, *, seeds: int, steps: int, batch: int, stream: int) -> np.ndarray:
    """Which examples each step takes, i32[steps S B]: every seed its own order, epoch by epoch.

    It depends on the seed alone and not on the arm, so the students of one seed see the same data
    in every arm, and their differences are paired.
    """
    wanted = steps * batch
    orders = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, stream])
        epochs = [rng.permutation(size) for _ in range(-(-wanted // size))]
        orders.append(np.concatenate(epochs)[:wanted].reshape(steps, batch))
    return np.stack(orders, axis=1).astype(np.int32)


def batches(rows: Rows, chosen: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """The batches of an order: arrays [S B ...]."""
    for indices in chosen:
        yield {key: array[indices] for key, array in rows.items()}


def entropy(labels: np.ndarray) -> float:
    """Cross-entropy of guessing by frequency alone, in nats."""
    shares = np.bincount(labels) / len(labels)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def majority(labels: np.ndarray) -> float:
    """Accuracy of always guessing the most frequent label."""
    return float(np.bincount(labels).max() / len(labels))
