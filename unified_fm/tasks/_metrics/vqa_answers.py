"""How VQA answers are compared: the official evaluator's normalisation, and the list of answers.

The rules are those of the evaluator's last commit (a013f00, March 2021), oddities included, for a
figure is only comparable if these are.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable

from unified_fm import choices
from unified_fm.data import official
from unified_fm.files import write_whole

# The colon and the apostrophe are not among them.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
_MOST_DOTS = 32  # the evaluator passes a flag where a count stands, and its value is 32
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {"none": 0} | {word: n for n, word in enumerate(_NUMBERS.split())}
_ARTICLES = ("a", "an", "the")

# Words that are written without their apostrophe.
_PLAIN = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's I'm I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've
o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've wasn't
we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
# X'd've, of which the first or the second apostrophe is missing.
_DOUBLE = "he I it she somebody someone something there they we who you"
# What is written -> what it is, as it stands in the evaluator.
_OTHERS = {
    "twas": "'twas",
    "couldn'tve": "couldn't've",
    "couldnt've": "couldn't've",
    "hadnt've": "hadn't've",
    "hadn'tve": "hadn't've",
    "mightnt've": "mightn't've",
    "mightn'tve": "mightn't've",
    "shouldnt've": "shouldn't've",
    "shouldn'tve": "shouldn't've",
    "wouldnt've": "wouldn't've",
    "wouldn'tve": "wouldn't've",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    # These three are oddities: the first takes an apostrophe out, the others change nothing.
    "somebody'd": "somebodyd",
    "let's": "let's",
    "she's": "she's",
}
# Keys with a capital never match, because the text is in lower case by then.
CONTRACTIONS = {
    **{word.replace("'", ""): word for word in _PLAIN.split()},
    **{f"{word}d've": f"{word}'d've" for word in _DOUBLE.split()},
    **{f"{word}'dve": f"{word}'d've" for word in _DOUBLE.split()},
    **_OTHERS,
}


def strip(answer: str) -> str:
    """Newlines and tabs to spaces, none at the ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(answer: str) -> str:
    """Deletes marks beside a space (or all, if a number has a comma); others become a space."""
    number, found = _COMMA_IN_NUMBER.search(answer), answer
    for mark in _PUNCTUATION:
        gone = number or f"{mark} " in answer or f" {mark}" in answer
        found = found.replace(mark, "" if gone else " ")
    return _DOT.sub("", found, count=_MOST_DOTS)


def plain_words(answer: str) -> str:
    """Lower case, digits for zero to ten, no articles, contractions with their apostrophe."""
    words = (str(_DIGITS.get(word, word)) for word in answer.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@functools.lru_cache(maxsize=2**18)  # most answers occur thousands of times
def normalise(answer: str) -> str:
    """All of it, in the official order. May be empty: "a" -> ""."""
    return plain_words(without_punctuation(strip(answer)))


@dataclasses.dataclass(frozen=True)
class AnswerList:
    """The answers that a classifier has as classes, or that a decoder ranks. A model has its own.

    Attributes:
        answers: normalised, the most frequent first.
    """

    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if twice := [a for a, n in Counter(self.answers).items() if n > 1]:
            raise ValueError(choices.listed("an answer list has these answers twice:", twice))

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def hash(self) -> str:
        """What tells it from another list."""
        return hashlib.sha256("\n".join(self.answers).encode()).hexdigest()[:12]

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON array of strings, as the published lists are."""
        write_whole(path, json.dumps(self.answers, indent=0, ensure_ascii=False) + "\n")


def build_list(answers: Iterable[str], least: int = 9) -> AnswerList:
    """The list of the answers that occur often enough, normalised.

    Of the `multiple_choice_answer` of train and val, 9 times and more give the 3,129 classes that
    bottom-up attention, METER and BEiT-3 use.

    Args:
        answers: one of each question.
        least: how often a normalised answer must occur.
    """
    counts = Counter(normalise(answer) for answer in answers)
    kept = [answer for answer, count in counts.items() if answer and count >= least]
    return AnswerList(tuple(sorted(kept, key=lambda answer: (-counts[answer], answer))))


def load_list(path: str | os.PathLike) -> AnswerList:
    """Reads a list that `save` wrote, or a published one (`answer_list.json`).

    Raises:
        WrongFile: no JSON array of strings, or a pickle.
        ValueError: an answer twice.
    """
    found = official.load_json(path, instead="a JSON array of answers")
    return AnswerList(tuple(official.texts(found, os.fspath(path))))
