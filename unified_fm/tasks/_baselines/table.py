"""Which trivial baselines a kind of task has: the best of them is what a model has to beat."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_fm.tasks._baselines import (
    answers,
    constant_box,
    guesses,
    neighbours,
    pixels,
    words,
)


class Named(NamedTuple):
    """A baseline, and how a table calls it."""

    title: str
    predict: Any  # base.Baseline; of retrieval: scores of all pairs


# Kind of task -> its baselines. `words.overlap` is only for pairs of texts.
BASELINES: Mapping[str, tuple[Named, ...]] = {
    "texts": (
        Named("most frequent class", guesses.majority),
        Named("TF-IDF and logistic regression", words.tfidf_classes),
    ),
    "pairs of texts": (
        Named("most frequent class", guesses.majority),
        Named("TF-IDF and logistic regression", words.tfidf_classes),
        Named("shared words", words.overlap),
    ),
    "scores of texts": (
        Named("mean", guesses.mean),
        Named("TF-IDF and ridge regression", words.tfidf_scores),
    ),
    "pictures": (
        Named("most frequent class", guesses.majority),
        Named("pixels and logistic regression", pixels.pixel_classes),
        Named("colours and logistic regression", pixels.colour_classes),
    ),
    "questions": (
        Named("question only", answers.question_only),
        Named("picture only: colours", answers.image_only),
        Named("picture only: pixels", answers.image_only_pixels),
    ),
    "pairs of pictures": (
        Named("sentence only", answers.sentence_only),
        Named("pictures only: colours", answers.pictures_only),
    ),
    # Sets of a million pictures are not read for a baseline: those that need no picture.
    "many pictures": (Named("most frequent class", guesses.majority),),
    "many questions": (Named("question only", answers.question_only),),
    "many pairs of pictures": (Named("sentence only", answers.sentence_only),),
    "many captions": (Named("most frequent caption", guesses.constant_caption),),
    "many retrievals": (),
    "expressions": (Named("best constant box", constant_box.constant_box),),
    "captions": (Named("caption of the nearest picture", neighbours.nearest_caption),),
    "retrieval": (Named("captions of the nearest picture", neighbours.retrieval_scores),),
}
