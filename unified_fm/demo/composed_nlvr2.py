"""Sentences about two composed scenes, in the files of NLVR2.

    train.json  dev.json  test1.json                     one object per line, as published
    images/train/3/train-103-0-img0.png  dev/dev-7-2-img1.png  test1/...

A set has two sentences and four pairs of pictures. Each sentence is true of two of the pairs, and
of each pair one of the sentences is true: who sees only the sentence, or only the pictures, is
right exactly half the time. "One picture" is exactly one.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from unified_fm import files
from unified_fm.demo import drawings, scenes, stage
from unified_fm.demo.making import Making
from unified_fm.demo.stage import Stage

# Split -> its name in NLVR2's files, and how many sets of eight examples it has.
SPLITS = {"train": ("train", 250), "val": ("dev", 50), "test": ("test1", 125)}
# Of the pairs of a set, of its first and its second sentence.
_TRUTHS = ((True, False), (True, False), (False, True), (False, True))
_NUMBERS = ("one", "two", "three")
_TRIES = 100_000
Two = tuple[list[int], list[int]]  # objects of the left and of the right picture


class Sentence(NamedTuple):
    """A sentence: its text, the object it names if any, and of which pictures it is true."""

    text: str
    template: str
    named: tuple[int, ...]
    true: Callable[[Two], bool]


def make(making: Making) -> None:
    """The pictures and sentences of all splits."""
    for split, (name, count) in SPLITS.items():
        there = Stage(making.root / "objects", split)
        rng = stage.numbers("nlvr2", split)
        drawn, lines = sets(there, rng), []
        for number in making.each(range(count)):
            folder = f"images/train/{number % 100}" if split == "train" else name
            (making.folder / folder).mkdir(parents=True, exist_ok=True)
            sentences, pairs = next(drawn)
            for p, pair in enumerate(pairs):
                for side, which in enumerate(pair):
                    order = [which[i] for i in rng.permutation(len(which))]
                    png = drawings.encode_png(there.free(order, rng).pixels)
                    path = making.folder / folder / f"{name}-{number}-{p}-img{side}.png"
                    path.write_bytes(png)
                for s, sentence in enumerate(sentences):
                    line = {
                        "sentence": sentence.text,
                        "identifier": f"{name}-{number}-{p}-{s}",
                        "label": str(sentence.true(pair)),  # a word, as published
                        "synset": sentence.template,
                    }
                    lines.append(line | ({"directory": number % 100} if split == "train" else {}))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files.write_whole(making.folder / f"{name}.json", text)
        making.counts[split] = len(lines)
        making.counts[f"{split} pictures"] = count * len(_TRUTHS) * 2


def sets(there: Stage, rng: np.random.Generator) -> Iterator[tuple[list[Sentence], list[Two]]]:
    """Two sentences and four pairs of pictures, without end."""
    turn = there.turns(rng)
    while True:
        sentences = _sentences(there, rng, turn)
        yield sentences, [_pair(there, rng, sentences, truth) for truth in _TRUTHS]


def _sentences(there: Stage, rng: np.random.Generator, turn: Iterator[int]) -> list[Sentence]:
    """Two of different templates; one always names an object."""
    naming = [_both_show, _one_shows, _left_shows, _right_shows]
    others = [*naming, _one_has]
    first = naming[int(rng.integers(len(naming)))]
    second = [each for each in others if each is not first][int(rng.integers(len(others) - 1))]
    found = [make(there, rng, next(turn)) for make in (first, second)]
    return [found[i] for i in rng.permutation(2)]


def _pair(
    there: Stage, rng: np.random.Generator, sentences: Sequence[Sentence], truth: tuple[bool, bool]
) -> Two:
    """Two pictures of which the sentences are as true as wanted."""
    named = [i for sentence in sentences for i in sentence.named]
    for _ in range(_TRIES):
        pair = _picture(there, rng, named), _picture(there, rng, named)
        if all(s.true(pair) == wanted for s, wanted in zip(sentences, truth, strict=True)):
            return pair
    texts = " / ".join(sentence.text for sentence in sentences)
    raise ValueError(f"no two pictures were found of which {truth} holds: {texts}")


def _picture(there: Stage, rng: np.random.Generator, named: Sequence[int]) -> list[int]:
    """The objects of a picture, each of those named with p = 1/2."""
    count = int(rng.choice(there.layout.counts))
    include = [i for i in named if rng.random() < 0.5][:count]
    if not (there.whole(include) if len(include) == count else there.meet(include)):
        include = include[:1]
    without = [i for i in named if i not in include]
    return there.cast(rng, count, include=include, exclude=without)


def _both_show(there: Stage, rng: np.random.Generator, thing: int) -> Sentence:
    text = f"both pictures show {_a(there, thing)}"
    return Sentence(text, "both show", (thing,), lambda pair: all(thing in one for one in pair))


def _one_shows(there: Stage, rng: np.random.Generator, thing: int) -> Sentence:
    text = f"one picture shows {_a(there, thing)}"
    return Sentence(text, "one shows", (thing,), lambda p: (thing in p[0]) != (thing in p[1]))


def _left_shows(there: Stage, rng: np.random.Generator, thing: int) -> Sentence:
    text = f"the left picture shows {_a(there, thing)}"
    return Sentence(text, "left shows", (thing,), lambda pair: thing in pair[0])


def _right_shows(there: Stage, rng: np.random.Generator, thing: int) -> Sentence:
    text = f"the right picture shows {_a(there, thing)}"
    return Sentence(text, "right shows", (thing,), lambda pair: thing in pair[1])


def _one_has(there: Stage, rng: np.random.Generator, thing: int) -> Sentence:
    number = int(rng.choice(there.layout.counts))
    things = "thing" if number == 1 else "things"
    text = f"one picture has {_NUMBERS[number - 1]} {things}"
    return Sentence(text, "one has", (), lambda p: (len(p[0]) == number) != (len(p[1]) == number))


def _a(there: Stage, thing: int) -> str:
    return scenes.caption([there.names[thing]])
