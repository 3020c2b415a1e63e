"""Image-text retrieval: which caption belongs to this image, and the other way round.

Candidates are ranked by the cosine of the two projections (ITC). With `rerank=k` the best k of
each query are ranked again by the matching logit of the fusion encoder, the rest come after them,
as published (X-FM section 4.1). Each direction has its own best k: a pair that only the other
direction chose has a logit, but may not use it. Each image's keys and values are projected once per
chunk and shared by all captions scored against it, and captions are fused in groups of similar
length. Finished chunks are kept, so an evaluation that was stopped goes on where it was.

    WORKDIR/predictions/val-800.jsonl      each query's candidates in order, as `rankings` says
    WORKDIR/predictions/val-800.json       what `unified-fm score` says of it: values, intervals
    WORKDIR/predictions/val-800-itc.jsonl  the same before the re-ranking

The recalls are those of the lines, as they are read back.
"""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from unified_fm import choices, queries
from unified_fm.evaluators import _chunks, _gallery, _pairs, base
from unified_fm.evaluators._gallery import Gallery, Set
from unified_fm.evaluators.base import Metric, RetrievalExample
from unified_fm.evaluators.predicted import CHOSEN, FOLDER, metrics_of
from unified_fm.files import write_whole
from unified_fm.tasks._metrics.retrieval import DIRECTIONS, top
from unified_fm.tasks._scoring import rankings
from unified_fm.tasks._scoring.rankings import Ranking

SAME = ("ids", "texts")  # what makes a caption a match of an image
MIX = ("itm", "itm+itc")  # by what the best candidates are ranked again

_log = logging.getLogger(__name__)
_SHOWN = 5  # candidates shown in the report for each query
_SAY_EVERY_S = 60.0  # between two lines about a long re-ranking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """R@1, R@5 and R@10 in both directions among `candidates` images and their captions.

    Ties count against the model. Scores that are not a number rank last.

    Attributes:
        candidates: images per set, in the order of the source; the recalls are the mean over the
            sets ("COCO 1k": 1000). 0: one set of everything. A last incomplete set is left out.
        captions_per_image: the first so many captions of each image (CLIP's scripts: 5); 0: all.
        ranks: the cut-offs of the recalls.
        rerank: how many of the best candidates of each query the fusion encoder ranks again; 0:
            none. The others tie behind them.
        mix: by what: "itm" = the matching logit alone, as ALBEF, X-VLM and X-FM do; "itm+itc" =
            with the cosine added, as BLIP does.
        same: what matches: "ids" = captions and images of one image id, as the official sets count;
            "texts" = also a caption that reads the same, token for token, as one of that image
            (where few captions describe many images, a wrong one is none).
        mean: also `mean_recall`, the mean of all recalls.
        listed: candidates of each query that are written, at most; more where the recalls need it.
        pair_batch: pairs scored at once when re-ranking; `batch_size` images are a chunk.
        shown: queries of each direction kept for the report.
    """

    whole: ClassVar[Mapping[str, Any]] = {"num_examples": None, "candidates": 0, "mean": True}

    candidates: int = 100
    captions_per_image: int = 0
    ranks: tuple[int, ...] = (1, 5, 10)
    rerank: int = 0
    mix: str = "itm"
    same: str = "ids"
    mean: bool = False
    listed: int = rankings.LISTED
    pair_batch: int = 256
    shown: int = 6

    def __post_init__(self) -> None:
        choices.check("retrieval: same", self.same, SAME)
        choices.check("retrieval: mix", self.mix, MIX)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        prefixes = ("", "reranked/") if self.rerank else ("",)
        names = [f"{d}/r{k}" for d in DIRECTIONS for k in self.ranks]
        names += ["mean_recall"] if self.mean else []
        return tuple(f"{p}{name}" for p in prefixes for name in names)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the recalls, first of the images' captions, then of the captions' images."""
        gallery = _gallery.gather(self, self.captions_per_image, self.same)
        sets = gallery.sets(self.candidates)
        chunks = self._chunks(params, gallery)
        encode = functools.partial(_encode, self, gallery, apply, params)
        features = encode() if chunks is None else chunks.features(encode)
        found = [_nearest(self, gallery, one, features) for one in sets]
        yield from self._scored("", gallery, sets, found)
        if self.rerank:
            found = _reranked(self, gallery, sets, found, apply, params, chunks)
            yield from self._scored("reranked/", gallery, sets, found)
        if chunks is not None:
            chunks.finish()
        self.examples.extend(_shown(self, gallery, sets[0], found[0]))

    @property
    def parameters(self) -> str:
        """Whether the run's parameters were pre-trained or fine-tuned, by its streams.

        A fine-tuning's stream is called "task": so a number says which model it is of, since
        "zero-shot" means a pre-trained one in some papers and a fine-tuned one in others.
        """
        if not self.streams:
            return ""
        return "fine-tuned" if "task" in self.streams else "pre-trained"

    def _chunks(self, params: Any, gallery: Gallery) -> _chunks.Chunks | None:
        if self.place.folder is None or not self.rerank:
            return None
        numbers = {
            "rerank": self.rerank,
            "candidates": self.candidates,
            "images": self.rows,
            "pairs": self._pairs_at_once,
        }
        folder, processes = self.place.folder / FOLDER, self.passes.processes
        return _chunks.below(folder, self.place, processes, params, gallery, numbers)

    @property
    def _pairs_at_once(self) -> int:
        return self.pair_batch + -self.pair_batch % self.passes.shards

    def _scored(
        self, prefix: str, gallery: Gallery, sets: Sequence[Set], found: "Sequence[_Found]"
    ) -> Iterator[Metric]:
        """The metrics of the lines, which are written first, and read back."""
        reranked = bool(prefix)
        parts = zip(sets, found, strict=True)
        lines = [line for one, ranked in parts for line in _lines(self, gallery, one, ranked)]
        lines.sort(key=lambda line: line["query"] == "caption")  # images first
        text = rankings.as_text(lines)
        stem = f"{self.place.name}-{self.place.step}"
        stem += "-itc" if self.rerank and not reranked else ""
        folder = None
        if self.place.folder is not None and self.passes.processes.index == 0:
            folder = self.place.folder / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{stem}.jsonl", text)
            text = (folder / f"{stem}.jsonl").read_text()
        lines = [json.loads(line) for line in text.split("\n") if line]  # one may hold U+2028
        scored = rankings.measured(lines, self.ranks, self._settings(reranked))
        notes = [*scored.notes, *([CHOSEN] if self.place.chooses else [])]
        report = dataclasses.replace(scored, notes=notes).report(self.seed)
        if folder is not None:
            about = {"source": self.source, "step": self.place.step, **report}
            write_whole(folder / f"{stem}.json", json.dumps(about, indent=1))
        among: dict[str, int] = dict(
            zip(DIRECTIONS, (len(sets[0].texts), len(sets[0].images)), strict=True)
        )
        wanted = [f"{d}/r{k}" for d in DIRECTIONS for k in self.ranks]
        metrics = {metric.name: metric for metric in metrics_of(scored, report)}
        for name in [*wanted, *(["mean_recall"] if self.mean else [])]:
            order = among.get(name.partition("/")[0])
            yield metrics[name]._replace(
                name=f"{prefix}{name}",
                chance_is=f"random order of {order}" if order else "random order",
                how=self._how(reranked),
            )

    def _settings(self, reranked: bool) -> dict[str, Any]:
        """What the numbers depend on."""
        trained = [f"{name}: {entry['source']}" for name, entry in self.streams.items()]
        return {
            "candidates": self.candidates or "all",
            "captions_per_image": self.captions_per_image or "all",
            "same": self.same,
            "rerank": self.rerank if reranked else 0,
            "mix": self.mix if reranked else "itc",
            "parameters": self.parameters,
            "trained_on": trained,
        }

    def _how(self, reranked: bool) -> str:
        said = [self.parameters] if self.parameters else []
        said += [f"{self.rerank} by {self.mix}"] if reranked else []
        said += [f"{self.captions_per_image} captions each"] if self.captions_per_image else []
        said += ["equal texts match"] if self.same == "texts" else []
        return ", ".join(said)


@dataclasses.dataclass(frozen=True)
class _Found:
    """The best candidates of a set's queries, by rows of the set."""

    of_images: Ranking
    of_texts: Ranking


def _encode(evaluator, gallery, apply, params) -> dict[str, np.ndarray]:
    """L2-normalised features f[I E] of the images and f[T E] of the captions."""
    arrays = gallery.held.arrays
    images = {"image": arrays["image"]} if arrays else {}
    part = evaluator.passes.processes.part(len(gallery.text))
    own = slice(part.start, part.stop)
    texts = {"text": gallery.text[own], "text_mask": gallery.text_mask[own]} if part else {}
    return {
        "image": evaluator.ask(apply, queries.image_feature, params, images)["feature"],
        "text": evaluator.ask(apply, queries.text_feature, params, texts)["feature"],
    }


def _listed(evaluator: Evaluator, gallery: Gallery, one: Set) -> int:
    """Candidates of a line: with fewer the list would not tell every recall exactly."""
    most = gallery.positive(one.images[:, None], one.texts[None])
    matches = max(most.sum(axis=0).max(), most.sum(axis=1).max())
    return max(evaluator.listed, max(evaluator.ranks) + int(matches))


def _nearest(evaluator: Evaluator, gallery: Gallery, one: Set, features) -> _Found:
    """The best candidates by cosine, as many as are listed or ranked again."""
    # One more than are listed tells whether the last of them is tied with others.
    wanted = max(_listed(evaluator, gallery, one) + 1, evaluator.rerank)
    cosine = features["image"][one.images] @ features["text"][one.texts].T
    found = []
    for scores in (cosine, cosine.T):
        best = top(scores, wanted)
        found.append(Ranking(best, np.take_along_axis(scores, best, axis=1)))
    return _Found(*found)


def _lines(evaluator: Evaluator, gallery: Gallery, one: Set, found: _Found):
    listed = _listed(evaluator, gallery, one)
    images = [gallery.names.images[row] for row in one.images.tolist()]
    texts = [gallery.names.captions[row] for row in one.texts.tolist()]
    own, owners = gallery.matches(one)
    yield from rankings.as_lines("image", images, texts, found.of_images, own, listed)
    yield from rankings.as_lines("caption", texts, images, found.of_texts, owners, listed)


def _reranked(evaluator, gallery, sets, found, apply, params, chunks) -> list[_Found]:
    """Each query's own best candidates, in the order of their matching logits."""
    count, keys = len(gallery.text), []
    for one, nearest in zip(sets, found, strict=True):
        for rows, texts, _ in _directions(evaluator, one, nearest):
            keys.append((rows * count + texts).reshape(-1))
    pairs = np.unique(np.concatenate(keys))  # those that both directions chose once
    logits = _score(evaluator, gallery, np.stack(np.divmod(pairs, count), 1), apply, params, chunks)

    ranked = []
    for one, nearest in zip(sets, found, strict=True):
        both = []
        for rows, texts, by_cosine in _directions(evaluator, one, nearest):
            scores = logits[np.searchsorted(pairs, rows * count + texts)]
            if evaluator.mix == "itm+itc":
                scores = scores + by_cosine.scores
            scores = np.where(np.isfinite(scores), scores, -np.inf)
            order = np.argsort(-scores, axis=1, kind="stable")
            both.append(Ranking(*(np.take_along_axis(x, order, 1) for x in (by_cosine[0], scores))))
        ranked.append(_Found(*both))
    return ranked


def _directions(evaluator: Evaluator, one: Set, found: _Found):
    """Of each direction: rows of images i[Q K] and of texts i[Q K], and the ranking, cut to k."""
    k = evaluator.rerank
    of_images, of_texts = (
        Ranking(*(part[:, :k] for part in each)) for each in (found.of_images, found.of_texts)
    )
    own = np.broadcast_to(one.images[:, None], of_images.candidates.shape)
    yield own, one.texts[of_images.candidates], of_images
    own = np.broadcast_to(one.texts[:, None], of_texts.candidates.shape)
    yield one.images[of_texts.candidates], own, of_texts


def _score(evaluator, gallery, pairs, apply, params, chunks) -> np.ndarray:
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
            pair_batch=evaluator._pairs_at_once,
            progress=_Progress(evaluator),
            chunks=chunks,
            first=held.first,
        )
        found = {"pair": own, "logit": logits}
    found = evaluator.passes.processes.gather(found)
    return found["logit"][np.argsort(found["pair"])]


class _Progress:
    """Says how far a re-ranking is, to the watchdog at every chunk and now and then to people."""

    def __init__(self, evaluator: Evaluator):
        self._evaluator, self._said = evaluator, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self._evaluator.passes.progress()
        if time.monotonic() - self._said > _SAY_EVERY_S:
            self._said = time.monotonic()
            name = self._evaluator.place.name
            _log.info("%s: %s of %s pairs are ranked again", name, f"{done:,}", f"{total:,}")


def _shown(
    evaluator: Evaluator, gallery: Gallery, one: Set, found: _Found
) -> Iterator[RetrievalExample]:
    """The first queries of the first set, in both directions, with their best candidates."""
    images, texts = one
    of_images, of_texts = (
        ranking.candidates[: evaluator.shown, :_SHOWN]
        for ranking in (found.of_images, found.of_texts)
    )
    owners = gallery.image_of[texts[: len(of_texts)]]
    pixels = _pixels(evaluator, gallery, [images[: len(of_images)], images[of_texts], owners])
    for row, first in enumerate(of_images):
        yield RetrievalExample(
            image=pixels[images[row]],
            caption=None,
            candidates=[gallery.captions[t] for t in texts[first]],
            correct=gallery.positive(images[row], texts[first]).tolist(),
            truth=[gallery.captions[t] for t in texts if gallery.image_of[t] == images[row]],
        )
    for row, first in enumerate(of_texts):
        yield RetrievalExample(
            image=None,
            caption=gallery.captions[texts[row]],
            candidates=[pixels[i] for i in images[first]],
            correct=gallery.positive(images[first], texts[row]).tolist(),
            truth=[pixels[owners[row]]],
        )


def _pixels(evaluator, gallery, wanted) -> dict[int, np.ndarray]:
    """The images u8[H W 3] of some rows, whoever has decoded them."""
    held = gallery.held
    own = np.unique(np.concatenate([rows.reshape(-1) for rows in wanted])) - held.first
    own = own[(own >= 0) & (own < len(held.records))]
    rows = {"row": own + held.first, "image": held.arrays["image"][own]} if len(own) else {}
    found = evaluator.passes.processes.gather(rows)
    return dict(zip(found["row"].tolist(), found["image"], strict=True)) if found else {}
