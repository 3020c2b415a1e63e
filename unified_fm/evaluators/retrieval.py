"""Image-text retrieval: which caption belongs to this image, and the other way round.

Candidates are ranked by the cosine of the two projections (ITC). With `rerank=k` the best k of
each query are ranked again by the matching logit of the fusion encoder alone, the rest come after
them, as published (X-FM section 4.1). Each direction has its own best k: a pair that only the other
direction chose has a logit, but may not use it. Each image's keys and values are projected once per
chunk and shared by all captions scored against it, and captions are fused in groups of similar
length.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_fm import choices
from unified_fm.evaluators import _pairs, base
from unified_fm.evaluators.base import Metric, RetrievalExample

SAME = ("ids", "texts")  # what makes a caption a match of an image

_SHOWN = 5  # candidates shown in the report for each query


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """R@1, R@5 and R@10 in both directions among `candidates` images and their captions.

    Ties count against the model. Scores that are not a number rank last.

    Attributes:
        candidates: images per set; the recalls are averaged over all queries of all sets. 0: one
            set of everything. A last incomplete set is left out.
        ranks: the cut-offs of the recalls.
        rerank: how many of the best candidates of each query the fusion encoder ranks again; 0:
            none. The others tie behind them.
        same: what matches: "ids" = captions and images of one image id, as the official sets count;
            "texts" = also a caption that reads the same, token for token, as one of that image
            (where few captions describe many images, a wrong one is none).
        pair_batch: pairs scored at once when re-ranking.
        shown: queries of each direction kept for the report.
    """

    candidates: int = 100
    ranks: tuple[int, ...] = (1, 5, 10)
    rerank: int = 0
    same: str = "ids"
    pair_batch: int = 256
    shown: int = 6

    def __post_init__(self) -> None:
        choices.check("retrieval: same", self.same, SAME)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        prefixes = ("", "reranked/") if self.rerank else ("",)
        directions = ("image_to_text", "text_to_image")
        return tuple(f"{p}{d}/r{k}" for p in prefixes for d in directions for k in self.ranks)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the recalls, first of the images' captions, then of the captions' images."""
        self.examples.clear()
        gallery = _gather(self)
        image_features, text_features = _encode(self, gallery, apply, params)
        sets = _sets(gallery, self.candidates)
        cosine = [image_features[images] @ text_features[texts].T for images, texts in sets]
        scores = _Scores(cosine, [x.T for x in cosine])
        yield from self._recalls("", sets, gallery, scores)
        if self.rerank:
            scores = _reranked(self, gallery, sets, cosine, apply, params)
            yield from self._recalls("reranked/", sets, gallery, scores)
        self.examples.extend(_shown(gallery, sets, scores, self.shown))

    def _recalls(self, prefix, sets, gallery, scores) -> Iterator[Metric]:
        positive = [gallery.positive(images, texts) for images, texts in sets]
        directions = (
            ("image_to_text", scores.of_images, positive),
            ("text_to_image", scores.of_texts, [p.T for p in positive]),
        )
        for direction, found, matches in directions:
            ranks = np.concatenate([first_rank(s, p) for s, p in zip(found, matches, strict=True)])
            among = matches[0].shape[1]
            for k in self.ranks:
                chance = np.concatenate([chance_recall(p, k) for p in matches]).mean()
                yield base.share(
                    f"{prefix}{direction}/r{k}",
                    ranks < k,
                    chance=float(chance),
                    chance_is=f"random order of {among}",
                )


@dataclasses.dataclass(frozen=True)
class _Scores:
    """Scores of every set's candidates, higher is better, the queries leading."""

    of_images: list[np.ndarray]  # f[images texts] of each set
    of_texts: list[np.ndarray]  # f[texts images]


def first_rank(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The rank of each query's best match, counted from 0; ties and NaN count against it.

    Args:
        scores: f[queries candidates], higher is better.
        positive: bool[queries candidates], the true matches.

    Returns:
        i[queries]: how many wrong candidates score at least as high as the best true one.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.where(positive, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~positive).sum(axis=1)


def chance_recall(positive: np.ndarray, k: int) -> np.ndarray:
    """R@k of a random order: 1 - C(n - p, k) / C(n, k) for p matches among n. f[queries]."""
    total = positive.shape[1]
    matches = positive.sum(axis=1)
    missed = np.ones(len(positive))
    for drawn in range(min(k, total)):
        missed *= np.clip(total - matches - drawn, 0, None) / (total - drawn)
    return 1.0 - missed


@dataclasses.dataclass(frozen=True)
class _Gallery:
    """All images and captions: arrays as the pipeline makes them, one row each."""

    image: np.ndarray  # u8[I H W 3]
    image_class: np.ndarray  # i[I], equal for the same image id
    text: np.ndarray  # i32[T L]
    text_mask: np.ndarray  # bool[T L]
    text_class: np.ndarray  # i[T], equal for the same tokens
    image_of: np.ndarray  # i[T], the image a caption was written for
    captions: list[str]
    same: str  # as in `Evaluator`

    def positive(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """bool[images texts]: the caption (or one that reads the same) belongs to the image."""
        if self.same == "ids":
            owners = self.image_class[self.image_of[texts]]
            return self.image_class[images][:, None] == owners
        table = np.zeros((self.image_class.max() + 1, self.text_class.max() + 1), bool)
        table[self.image_class[self.image_of[texts]], self.text_class[texts]] = True
        return table[self.image_class[images]][:, self.text_class[texts]]


def _gather(evaluator: Evaluator) -> _Gallery:
    images, ids, rows, owners, captions = [], [], [], [], []
    for row, (record, arrays) in enumerate(evaluator.load()):
        images.append(arrays["image"])
        ids.append(str(record.get("id", row)))
        for caption in base.captions(record):
            tokens = evaluator.tokens(caption, row)
            if tokens is not None:
                rows.append(tokens)
                owners.append(row)
                captions.append(caption)
    text, mask = base.stack(rows).values()
    length = int(mask.sum(axis=1).max())
    text, mask = text[:, :length], mask[:, :length]
    return _Gallery(
        image=np.stack(images),
        image_class=np.unique(ids, return_inverse=True)[1].reshape(-1),
        text=text,
        text_mask=mask,
        text_class=np.unique(np.where(mask, text, -1), axis=0, return_inverse=True)[1].reshape(-1),
        image_of=np.array(owners),
        captions=captions,
        same=evaluator.same,
    )


def _sets(gallery: _Gallery, candidates: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the images into sets of equal size, each with all captions of its images."""
    size = min(candidates or len(gallery.image), len(gallery.image))
    split = []
    for start in range(0, len(gallery.image) - size + 1, size):
        images = np.arange(start, start + size)
        split.append((images, np.flatnonzero(np.isin(gallery.image_of, images))))
    return split


def _encode(evaluator, gallery, apply, params) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised features f[I E] of the images and f[T E] of the captions."""
    size = evaluator.batch_size
    image = base.in_batches(apply, _image_feature, params, {"image": gallery.image}, size)
    rows = {"text": gallery.text, "text_mask": gallery.text_mask}
    return image, base.in_batches(apply, _text_feature, params, rows, size)


def _image_feature(net, batch):
    return net.image_feature(net(batch)).astype(jnp.float32)


def _text_feature(net, batch):
    return net.text_feature(net(batch)).astype(jnp.float32)


def _reranked(evaluator, gallery, sets, cosine, apply, params) -> _Scores:
    """Matching logits of each query's own best candidates, -inf for all others."""
    chosen = [
        (best(scores, evaluator.rerank), best(scores.T, evaluator.rerank)) for scores in cosine
    ]
    wanted = [of_images | of_texts.T for of_images, of_texts in chosen]
    logits = _match(evaluator, gallery, sets, wanted, apply, params)
    return _Scores(
        [np.where(own, x, -np.inf) for (own, _), x in zip(chosen, logits, strict=True)],
        [np.where(own, x.T, -np.inf) for (_, own), x in zip(chosen, logits, strict=True)],
    )


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Which are each query's k best candidates, bool[queries candidates]; NaN is the worst.

    Of equal candidates the first ones are taken.

    Args:
        scores: f[queries candidates].
        k: how many; all, if there are fewer.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    wanted = np.zeros(scores.shape, bool)
    np.put_along_axis(wanted, chosen, True, axis=1)
    return wanted


def _match(evaluator, gallery, sets, wanted, apply, params) -> list[np.ndarray]:
    """Matching logits f[images texts] of the wanted pairs of every set, -inf elsewhere."""
    pairs = np.concatenate(
        [
            np.stack([images[np.nonzero(w)[0]], texts[np.nonzero(w)[1]]], axis=1)
            for (images, texts), w in zip(sets, wanted, strict=True)
        ]
    )
    score = _pairs.score(
        apply,
        params,
        image=gallery.image,
        text=gallery.text,
        text_mask=gallery.text_mask,
        pairs=pairs,
        image_batch=evaluator.batch_size,
        pair_batch=evaluator.pair_batch,
    )
    results, start = [], 0
    for w in wanted:
        logits = np.full(w.shape, -np.inf, np.float32)
        count = int(w.sum())
        logits[w] = score[start : start + count]
        results.append(logits)
        start += count
    return results


def _shown(gallery: _Gallery, sets, scores, count: int) -> Iterator[RetrievalExample]:
    """The first queries of the first set, in both directions, with their best candidates."""
    images, texts = sets[0]
    positive = gallery.positive(images, texts)
    for row in range(min(count, len(images))):
        first = np.argsort(-scores.of_images[0][row], kind="stable")[:_SHOWN]
        yield RetrievalExample(
            image=gallery.image[images[row]],
            caption=None,
            candidates=[gallery.captions[texts[t]] for t in first],
            correct=[bool(positive[row, t]) for t in first],
            truth=[gallery.captions[t] for t in texts if gallery.image_of[t] == images[row]],
        )
    for column in range(min(count, len(texts))):
        first = np.argsort(-scores.of_texts[0][column], kind="stable")[:_SHOWN]
        yield RetrievalExample(
            image=None,
            caption=gallery.captions[texts[column]],
            candidates=[gallery.image[images[i]] for i in first],
            correct=[bool(positive[i, column]) for i in first],
            truth=[gallery.image[gallery.image_of[texts[column]]]],
        )
