"""Search: candidates by the cosine of features, the best of them again by the matching head."""

import numpy as np

from unified_fm import queries
from unified_fm.inference import features
from unified_fm.inference.items import IMAGES, Items, check_k, kind_of
from unified_fm.inference.pairs import Pairs, probability
from unified_fm.inference.parts import Parts
from unified_fm.inference.results import Hit

Ranked = tuple[np.ndarray, np.ndarray]  # places in the gallery, scores; best first


def search(
    parts: Parts, asked: Items, gallery: Items | np.ndarray, *, k: int, rerank: int, on_error: str
) -> list[list[Hit] | None]:
    """The hits of each query; arguments as of `Model.search`.

    Raises:
        ValueError: `k` below 1; `rerank` of a gallery of features, or of two of one kind; a gallery
            of features of another width than the queries'.
    """
    check_k(k)
    if rerank < 0:
        raise ValueError(f"rerank is {rerank}; 0 or more are ranked again")
    kind, items = kind_of(asked), gallery if isinstance(gallery, Items) else None
    if rerank:
        _check_kinds(kind, items)
    if not isinstance(gallery, Items):
        _check_width(features.width(parts, kind.removesuffix("s"), True), gallery)
    known = gallery if items is None else features.of(parts, items, kind_of(items), on_error)
    usable = np.array([n for n, feature in enumerate(known) if feature is not None], int)
    matrix = np.array([known[n] for n in usable], np.float32)  # f[G E]
    wanted = max(k, rerank) if rerank else k
    found: list[Ranked | None] = []
    for query in features.of(parts, asked, kind, on_error):
        found.append(None if query is None else _nearest(query, matrix, usable, wanted))
    if rerank and items is not None:
        found = _reranked(parts, asked, items, kind, found, on_error)
    return [
        None if own is None else [Hit(int(n), float(x)) for n, x in zip(*own, strict=True)][:k]
        for own in found
    ]


def _check_kinds(kind: str, gallery: Items | None) -> None:
    if gallery is None or (gallery.values and kind_of(gallery) == kind):
        found = "features" if gallery is None else f"{kind}, as the queries are"
        raise ValueError(
            f"rerank compares images with texts, and the gallery is {found}: give the other kind, "
            "or rerank=0"
        )


def _check_width(width: int, gallery: np.ndarray) -> None:
    if gallery.shape[1] != width:
        raise ValueError(
            f"the gallery is features of {gallery.shape[1]} numbers, and those of the queries have "
            f"{width}: both must be projected, as encode_image and encode_text do unless "
            "project=False, and by one checkpoint"
        )


def _nearest(query: np.ndarray, matrix: np.ndarray, usable: np.ndarray, wanted: int) -> Ranked:
    cosine = matrix @ query if len(usable) else np.zeros(0, np.float32)
    order = np.argsort(-cosine, kind="stable")[:wanted]
    return usable[order], cosine[order]


def _reranked(parts, asked, gallery, kind, found, on_error) -> list[Ranked | None]:
    parts.abilities.need("match")
    pairs = [(q, int(n)) for q, own in enumerate(found) if own is not None for n in own[0]]
    images, texts = (asked, gallery) if kind == IMAGES else (gallery, asked)
    pairs = pairs if kind == IMAGES else [(n, q) for q, n in pairs]
    rows = features.tokens(parts, texts, on_error, about_image=True)
    answers = iter(Pairs(parts, images, on_error).ask(queries.match, rows, pairs))
    ranked = []
    for own in found:
        if own is not None:
            # Those that were skipped have no feature, so they are not among the candidates.
            scores = np.array([probability(next(answers)["margin"]) for _ in own[0]])
            order = np.argsort(-scores, kind="stable")
            own = own[0][order], scores[order]
        ranked.append(own)
    return ranked
