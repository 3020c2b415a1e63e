"""Retrieval from files: each query's candidates in order, one JSON line each, or all scores.

    {"id": "391895", "query": "image", "prediction": ["391895#2", "522418#0"], "scores": [3.1, 0.5],
     "of": 25010, "truth": ["391895#0", ...]}
    {"id": "391895#0", "query": "caption", "prediction": ["391895", "60623"], ...}

Caption n of an image is called IMAGE#n, counted from 0 in the order of the truth; images are called
by their ids, or by the number of their row where these are not unique. `prediction` may stop after
any number of candidates, all others come behind. With `scores` ties count against the match,
without them the order is the ranking. `of` is among how many candidates the query was ranked: the
truth must have as many. `truth` is what a run knew, and nothing that is scored by another file.
"""

import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified_fm import choices
from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import albef, karpathy
from unified_fm.tasks._metrics import retrieval
from unified_fm.tasks._scoring.scored import Scored

Lines = Sequence[Mapping[str, Any]]
QUERIES = ("image", "caption")
LISTED = 50  # candidates of a line, unless more are asked for
_ARRAYS = ("scores", *retrieval.DIRECTIONS)


class Names(NamedTuple):
    """What images and captions are called, in their order."""

    images: list[str]
    captions: list[str]


class Ranking(NamedTuple):
    """The best candidates of each query, best first.

    Attributes:
        candidates: i[Q K], rows.
        scores: f32[Q K], theirs; what is not finite is no candidate.
    """

    candidates: np.ndarray
    scores: np.ndarray


def names(ids: Sequence[Any], captions: Sequence[int]) -> Names:
    """The names of images with these ids, which have so many captions each."""
    images = [str(i) for i in ids]
    if len(set(images)) < len(images):
        images = [str(row) for row in range(len(images))]
    counts = zip(images, captions, strict=True)
    return Names(images, [f"{i}#{n}" for i, count in counts for n in range(count)])


def as_lines(
    query: str,
    queries: Sequence[str],
    candidates: Sequence[str],
    ranking: Ranking,
    truth: Sequence[Sequence[str]],
    listed: int,
) -> Iterator[dict[str, Any]]:
    """A line of each query.

    Candidates with equal scores are listed all or not at all, so that a rank told by the list is
    exact, and so is what is counted by any cut-off up to `listed` less the matches of a query.

    Args:
        query: "image" or "caption".
        queries, candidates: their names.
        ranking: of more than `listed` candidates, or of all that are not tied behind the others.
        truth: names of each query's matches.
        listed: candidates of a line, at most.
    """
    # The shortest decimals that mean the same f32: other tools read them as equal, too.
    scores = ranking.scores.astype(np.float32).astype("U24").astype(np.float64)
    for row, name in enumerate(queries):
        count = int(np.isfinite(scores[row]).sum())
        if count > listed:
            count = int((scores[row, :listed] > scores[row, listed]).sum())
        yield {
            "id": name,
            "query": query,
            "prediction": [candidates[k] for k in ranking.candidates[row, :count].tolist()],
            "scores": scores[row, :count].tolist(),
            "of": len(candidates),
            "truth": list(truth[row]),
        }


def as_text(lines: Lines) -> str:
    """The lines of a file."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def measured(
    lines: Lines, cuts: Sequence[int] = retrieval.CUTS, settings: Mapping[str, Any] | None = None
) -> Scored:
    """The score of lines with their truth; units are images with all their captions.

    Lines of several sets, each ranked by itself, give the mean over the sets: every set counts
    alike, however many captions it has.

    Raises:
        ValueError: a caption of an image that is no query.
    """
    images, texts = ([each for each in lines if each["query"] == kind] for kind in QUERIES)
    place = {line["id"]: row for row, line in enumerate(images)}
    try:
        image_of = np.array([place[_image_of(line["id"])] for line in texts], int)
    except KeyError as error:
        raise ValueError(f"captions of image {error} are ranked, and it is not") from None
    among = np.array([line["of"] for line in images])
    weights = np.ones(len(texts)) if len(set(among)) == 1 else 1 / among[image_of]
    statistics = retrieval.weighted(
        np.array([_rank(line) for line in images], int),
        np.array([_rank(line) for line in texts], int),
        image_of,
        weights,
        cuts,
    )
    return Scored(
        counts={"images": len(images), "captions": len(texts)},
        statistics={"mean_recall": statistics.pop("mean_recall"), **statistics},
        chance=_chance(images, texts, weights, cuts),
        chance_is="random order",
        unit="images",
        settings=settings or {},
    )


def score_retrieval(
    said: pathlib.Path,
    truth: pathlib.Path,
    *,
    split: str = "test",
    captions_per_image: int = 0,
    folds: int = 0,
) -> Scored:
    """Recalls of both directions; units are images with all their captions.

    Args:
        said: JSON lines as above; or .npz of scores, higher is better, rows in the order of the
            truth: `image_to_text` f[I T] and `text_to_image` f[T I], or `scores` f[I T] for both;
            or .npy of the latter.
        truth: Karpathy's file; ALBEF's array; JSON lines of `id` and `text`; or lines as above,
            whose `truth` counts.
        split: of Karpathy's file.
        captions_per_image: keep the first so many of each image (CLIP's scripts: 5); 0: all.
        folds: images of each fold ("COCO 1k": 1000), over which is averaged; 0: the whole set.

    Raises:
        ValueError: another layout, a query without a ranking, or one among other candidates.
    """
    settings = {
        "split": split,
        "captions_per_image": captions_per_image or "all",
        "folds": folds,
    }
    own = official.is_lines(truth) and _of_a_run(truth)
    if own:
        return measured(_checked(said, own, folds), settings=settings)
    rows = _read(truth, split)
    texts = [row.captions[: captions_per_image or None] for row in rows]
    if said.suffix not in (".npz", ".npy"):
        called = _matched(names([row.id for row in rows], [len(some) for some in texts]))
        return measured(_checked(said, called, folds), settings=settings)
    image_of = retrieval.owners(texts)
    scores = _scores(said, len(rows), len(image_of))
    if folds:
        statistics = retrieval.folds(*scores, image_of, size=folds)
    else:
        statistics = retrieval.measures(*retrieval.ranks(*scores, image_of), image_of)
    return Scored(
        counts={"images": len(rows), "captions": len(image_of)},
        statistics={"mean_recall": statistics.pop("mean_recall"), **statistics},
        chance={} if folds else retrieval.chance(len(rows), image_of),
        chance_is="random order",
        unit="images",
        settings=settings,
    )


class _Truth(NamedTuple):
    """Images and captions in their order, and the matches of each."""

    images: list[str]
    captions: list[str]
    right: Mapping[str, Sequence[str]]

    def folds(self, size: int) -> list["_Truth"]:
        """Its parts of `size` images each, or itself."""
        if not size:
            return [self]
        parts = []
        for start in range(0, len(self.images) - size + 1, size):
            images = self.images[start : start + size]
            inside = set(images)
            captions = [name for name in self.captions if _image_of(name) in inside]
            parts.append(_Truth(images, captions, self.right))
        if not parts:
            raise WrongFile(f"folds of {size} images need as many; there are {len(self.images)}")
        return parts


def _matched(called: Names) -> _Truth:
    """An image matches its captions, and no caption that reads the same."""
    right: dict[str, list[str]] = {name: [] for name in called.images}
    for caption in called.captions:
        right[_image_of(caption)].append(caption)
    return _Truth(*called, right | {name: [_image_of(name)] for name in called.captions})


def _image_of(caption: str) -> str:
    return caption.rpartition("#")[0]


def _rank(line: Mapping[str, Any]) -> int:
    matches = set(line["truth"])
    right = [name in matches for name in line["prediction"]]
    return retrieval.rank(right, line.get("scores"), line["of"] - len(matches))


def _chance(images: Lines, texts: Lines, weights: np.ndarray, cuts: Sequence[int]):
    found = {}
    parts = zip(retrieval.DIRECTIONS, (images, texts), (None, weights), strict=True)
    for direction, lines, counted in parts:
        matches = np.array([len(line["truth"]) for line in lines])
        among = np.array([line["of"] for line in lines])
        for k in cuts:
            chance = retrieval.chance_recall(matches, among, k)
            found[f"{direction}/r{k}"] = float(np.average(chance, weights=counted))
    return found | {"mean_recall": float(np.mean(list(found.values())))}


def _read(truth: pathlib.Path, split: str) -> list[karpathy.Captioned]:
    if official.is_lines(truth):
        rows = []
        for number, (line, record) in enumerate(official.load_lines(truth)):
            where = f"{truth}, line {line}"
            texts = official.texts(official.field(record, "text", (str, list), where), where)
            rows.append(karpathy.Captioned(record.get("id", number), "", texts))
        return rows
    if isinstance(official.load_json(truth), list):
        return albef.read(truth)
    return karpathy.read(truth, split)


def _of_a_run(truth: pathlib.Path) -> _Truth | None:
    """What the lines of a run's predictions say of the truth; None: these are no such lines."""
    found: dict[str, dict[str, Sequence[str]]] = {kind: {} for kind in QUERIES}
    for line, record in official.load_lines(truth):
        if "query" not in record:
            return None
        where = f"{truth}, line {line}"
        right = official.texts(official.field(record, "truth", list, where), where)
        found[_kind(record, where)][official.field(record, "id", str, where)] = right
    images, captions = (list(some) for some in found.values())
    return _Truth(images, captions, found["image"] | found["caption"])


def _kind(record: Mapping[str, Any], where: str) -> str:
    return choices.check(f"{where}: query", official.field(record, "query", str, where), QUERIES)


def _checked(said: pathlib.Path, truth: _Truth, folds: int) -> list[dict[str, Any]]:
    """The lines of all queries of the truth, with its matches; in its order.

    Raises:
        WrongFile: a query that is missing or doubled, a candidate that is not there or twice, or
            another number of candidates.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for line, record in official.load_lines(said):
        where = f"{said}, line {line}"
        key = official.field(record, "id", str, where)
        if found.setdefault(key, (where, record))[1] is not record:
            raise WrongFile(f"{where} ranks {key} again")
    lines, asked = [], 0
    for part in truth.folds(folds):
        for kind, queries, candidates in (
            ("image", part.images, part.captions),
            ("caption", part.captions, part.images),
        ):
            known = set(candidates)
            if missing := [name for name in queries if name not in found]:
                raise WrongFile(
                    f"{said} ranks nothing for {len(missing):,} {kind}s; the first is {missing[0]}"
                )
            for name in queries:
                where, record = found[name]
                _check_line(record, kind, known, where)
                right = [one for one in truth.right[name] if one in known]
                lines.append({**record, "of": len(known), "truth": right})
            asked += len(queries)
    if not folds and asked < len(found):
        other = next(name for name in found if name not in truth.right)
        raise WrongFile(f"{found[other][0]} ranks {other}, which the truth has not")
    return sorted(lines, key=lambda line: line["query"] == "caption")


def _check_line(record: Mapping[str, Any], kind: str, known: set[str], where: str) -> None:
    if _kind(record, where) != kind:
        raise WrongFile(f"{where}: {record['id']} is the name of an {kind}, not of a caption")
    ranked = official.texts(official.field(record, "prediction", list, where), where)
    others = "caption" if kind == "image" else "image"
    if record.get("of", len(known)) != len(known):
        raise WrongFile(
            f"{where} is ranked among {record['of']:,} {others}s, and the truth has {len(known):,}:"
            " of another split, or with another number of captions per image or of images per fold?"
        )
    if strange := [name for name in ranked if name not in known]:
        near = choices.nearest(strange[0], known)
        hint = f" (the nearest is {near})" if near else ""
        raise WrongFile(f"{where}: {strange[0]} is no {others} that it is ranked among{hint}")
    if len(set(ranked)) != len(ranked):
        raise WrongFile(f"{where} has a candidate twice")
    if "scores" in record:
        scores = official.field(record, "scores", list, where)
        if len(scores) != len(ranked) or not all(isinstance(x, int | float) for x in scores):
            raise WrongFile(f"{where}: {len(scores)} scores; a number for each of {len(ranked)}")


def _scores(said: pathlib.Path, images: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """f[I T] of the images and f[T I] of the texts."""
    try:
        found = np.load(said, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise WrongFile(f"{said} cannot be read as NumPy's arrays: {error}") from error
    arrays = {"scores": found} if isinstance(found, np.ndarray) else dict(found)
    if "scores" in arrays:
        arrays = {"image_to_text": arrays["scores"], "text_to_image": arrays["scores"].T}
    for name, shape in zip(retrieval.DIRECTIONS, [(images, texts), (texts, images)], strict=True):
        if name not in arrays:
            there = ", ".join(arrays) or "nothing"
            raise WrongFile(f"{said} has no {name}; it has {there}; possible: {', '.join(_ARRAYS)}")
        if arrays[name].shape != shape:
            raise WrongFile(
                f"{said}: {name} is {list(arrays[name].shape)}; the truth has {images} images and"
                f" {texts} captions, so {list(shape)} is needed"
            )
    return arrays["image_to_text"], arrays["text_to_image"]
