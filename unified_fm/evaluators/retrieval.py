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

import numpy as np

from unified_fm import choices, queries
from unified_fm.evaluators import _pairs, base
from unified_fm.evaluators._batches import stack
from unified_fm.evaluators.base import Metric, RetrievalExample
from unified_fm.tasks._metrics.retrieval import DIRECTIONS, best, chance_recall, first_rank

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
        mean: also `mean_recall`, the mean of all recalls.
        pair_batch: pairs scored at once when re-ranking.
        shown: queries of each direction kept for the report.
    """

    candidates: int = 100
    ranks: tuple[int, ...] = (1, 5, 10)
    rerank: int = 0
    same: str = "ids"
    mean: bool = False
    pair_batch: int = 256
    shown: int = 6

    def __post_init__(self) -> None:
        choices.check("retrieval: same", self.same, SAME)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        prefixes = ("", "reranked/") if self.rerank else ("",)
        names = [f"{d}/r{k}" for d in DIRECTIONS for k in self.ranks]
        names += ["mean_recall"] if self.mean else []
        return tuple(f"{p}{name}" for p in prefixes for name in names)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the recalls, first of the images' captions, then of the captions' images."""
        gallery = _gather(self)
        image_features, text_features = _encode(self, gallery, apply, params)
        sets = _sets(gallery, self.candidates)
        cosine = [image_features[images] @ text_features[texts].T for images, texts in sets]
        scores = _Scores(cosine, [x.T for x in cosine])
        yield from self._recalls("", sets, gallery, scores)
        if self.rerank:
            scores = _reranked(self, gallery, sets, cosine, apply, params)
            yield from self._recalls("reranked/", sets, gallery, scores)
        self.examples.extend(_shown(self, gallery, sets, scores))

    def _recalls(self, prefix, sets, gallery, scores) -> Iterator[Metric]:
        positive = [gallery.positive(images, texts) for images, texts in sets]
        owners = gallery.image_of[np.concatenate([texts for _, texts in sets])]
        directions = (
            ("image_to_text", scores.of_images, positive, None),
            ("text_to_image", scores.of_texts, [p.T for p in positive], owners),
        )
        hits, chances = [], []
        for direction, found, matches, units in directions:
            ranks = np.concatenate([first_rank(s, p) for s, p in zip(found, matches, strict=True)])
            among = matches[0].shape[1]
            for k in self.ranks:
                chance = float(np.concatenate([chance_recall(p, k) for p in matches]).mean())
                yield base.share(
                    f"{prefix}{direction}/r{k}",
                    ranks < k,
                    chance=chance,
                    chance_is=f"random order of {among}",
                    units=units,
                )
                chances.append(chance)
            hits.append((ranks[:, None] < np.array(self.ranks)).mean(axis=1))
        if self.mean:
            found = _of_each_image(sets, gallery, *hits)
            metric = base.mean(
                f"{prefix}mean_recall",
                found,
                chance=float(np.mean(chances)),
                chance_is="random order",
            )
            yield metric._replace(unit="%")


def _of_each_image(sets, gallery, of_images, of_texts) -> np.ndarray:
    """f[I], whose mean is that of the means of f[I] and f[T]: an image and its captions are one
    example, so that the error of the mean counts neither twice."""
    owners = np.concatenate([gallery.image_of[texts] for _, texts in sets])  # in 0..I-1
    sums = np.bincount(owners, of_texts, minlength=len(of_images))
    return (of_images + sums * len(of_images) / len(owners)) / 2


@dataclasses.dataclass(frozen=True)
class _Scores:
    """Scores of every set's candidates, higher is better, the queries leading."""

    of_images: list[np.ndarray]  # f[images texts] of each set
    of_texts: list[np.ndarray]  # f[texts images]


@dataclasses.dataclass(frozen=True)
class _Gallery:
    """All images and captions, one row each; pixels of this process's images only."""

    held: base.Pass
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
    held, processes = evaluator.load(), evaluator.passes.processes
    rows, captions = [], []
    for _, number, record in held.numbered():
        for caption in base.captions(record):
            tokens = evaluator.tokens(caption, number)
            if tokens is not None:
                rows.append(tokens | {"image_of": number})
                captions.append(caption)
    found = processes.gather(stack(rows))
    ids = processes.gather_values([str(record["id"]) for record in held.records])
    length = int(found["text_mask"].sum(axis=1).max())
    text, mask = found["text"][:, :length], found["text_mask"][:, :length]
    return _Gallery(
        held=held,
        image_class=np.unique(ids, return_inverse=True)[1].reshape(-1),
        text=text,
        text_mask=mask,
        text_class=np.unique(np.where(mask, text, -1), axis=0, return_inverse=True)[1].reshape(-1),
        image_of=found["image_of"],
        captions=processes.gather_values(captions),
        same=evaluator.same,
    )


def _sets(gallery: _Gallery, candidates: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the images into sets of equal size, each with all captions of its images."""
    total = len(gallery.image_class)
    size = min(candidates or total, total)
    split = []
    for start in range(0, total - size + 1, size):
        images = np.arange(start, start + size)
        split.append((images, np.flatnonzero(np.isin(gallery.image_of, images))))
    return split


def _encode(evaluator, gallery, apply, params) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised features f[I E] of the images and f[T E] of the captions."""
    arrays = gallery.held.arrays
    images = {"image": arrays["image"]} if arrays else {}
    part = evaluator.passes.processes.part(len(gallery.text))
    own = slice(part.start, part.stop)
    texts = {"text": gallery.text[own], "text_mask": gallery.text_mask[own]} if part else {}
    return (
        evaluator.ask(apply, queries.image_feature, params, images)["feature"],
        evaluator.ask(apply, queries.text_feature, params, texts)["feature"],
    )


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


def _match(evaluator, gallery, sets, wanted, apply, params) -> list[np.ndarray]:
    """Matching logits f[images texts] of the wanted pairs of every set, -inf elsewhere."""
    pairs = np.concatenate(
        [
            np.stack([images[np.nonzero(w)[0]], texts[np.nonzero(w)[1]]], axis=1)
            for (images, texts), w in zip(sets, wanted, strict=True)
        ]
    )
    score = _score(evaluator, gallery, pairs, apply, params)
    results = [np.full(w.shape, -np.inf, np.float32) for w in wanted]
    ends = np.cumsum([w.sum() for w in wanted])
    for logits, w, found in zip(results, wanted, np.split(score, ends[:-1]), strict=True):
        logits[w] = found
    return results


def _score(evaluator, gallery, pairs, apply, params) -> np.ndarray:
    """The matching logit f32[P] of pairs i[P 2]: each is scored where the image was decoded."""
    held = gallery.held
    image = pairs[:, 0] - held.first
    own = np.flatnonzero((image >= 0) & (image < len(held.records)))
    found = {}
    if len(own):
        logits = _pairs.score(
            apply,
            params,
            image=held.arrays["image"],
            text=gallery.text,
            text_mask=gallery.text_mask,
            pairs=np.stack([image[own], pairs[own, 1]], axis=1),
            image_batch=evaluator.rows,
            pair_batch=evaluator.pair_batch + -evaluator.pair_batch % evaluator.passes.shards,
        )
        found = {"pair": own, "logit": logits}
    found = evaluator.passes.processes.gather(found)
    return found["logit"][np.argsort(found["pair"])]


def _shown(evaluator, gallery, sets, scores) -> Iterator[RetrievalExample]:
    """The first queries of the first set, in both directions, with their best candidates."""
    images, texts = sets[0]
    positive = gallery.positive(images, texts)
    of_images, of_texts = (
        np.argsort(-found[0][: evaluator.shown], axis=1, kind="stable")[:, :_SHOWN]
        for found in (scores.of_images, scores.of_texts)
    )
    owners = gallery.image_of[texts[: len(of_texts)]]
    pixels = _pixels(evaluator, gallery, [images[: len(of_images)], images[of_texts], owners])
    for row, first in enumerate(of_images):
        yield RetrievalExample(
            image=pixels[images[row]],
            caption=None,
            candidates=[gallery.captions[texts[t]] for t in first],
            correct=[bool(positive[row, t]) for t in first],
            truth=[gallery.captions[t] for t in texts if gallery.image_of[t] == images[row]],
        )
    for column, first in enumerate(of_texts):
        yield RetrievalExample(
            image=None,
            caption=gallery.captions[texts[column]],
            candidates=[pixels[images[i]] for i in first],
            correct=[bool(positive[i, column]) for i in first],
            truth=[pixels[owners[column]]],
        )


def _pixels(evaluator, gallery, wanted) -> dict[int, np.ndarray]:
    """The images u8[H W 3] of some rows, whoever has decoded them."""
    held = gallery.held
    own = np.unique(np.concatenate([rows.reshape(-1) for rows in wanted])) - held.first
    own = own[(own >= 0) & (own < len(held.records))]
    rows = {"row": own + held.first, "image": held.arrays["image"][own]} if len(own) else {}
    found = evaluator.passes.processes.gather(rows)
    return dict(zip(found["row"].tolist(), found["image"], strict=True)) if found else {}
