"""Questions about composed scenes, in the files of VQA v2.

    v2_OpenEnded_mscoco_train2014_questions.json    v2_mscoco_train2014_annotations.json
    train2014/COCO_train2014_000000000042.jpg       (and val2014, test2015, all with answers)
    answers.json                                    those of training, as a classifier has them

| answer type | question | a picture's two answers |
| --- | --- | --- |
| yes/no | is there a peach? | yes, and no to another thing |
| number | how many things are on the blue ground? | 1 and 2 |
| place | what is left of the cup? | the things at both sides of the one in the middle |
| ground | what is on the blue ground? | the things on the two grounds |

Every picture is asked two questions of one kind with different answers, and the answers of a kind
are balanced. So whoever sees the question alone is right half the time on the first two kinds, and
as often as one object of all is right by chance on the others; and whoever sees the picture alone,
even without any mistake, half the time at most: a model that names things, and knows no places, is
right half the time on `place`. That is why nobody asks "how many things are there?": the picture
alone would do.
"""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from unified_fm import files
from unified_fm.demo import drawings, scenes, stage
from unified_fm.demo.making import Making
from unified_fm.demo.stage import Picture, Stage
from unified_fm.tasks._metrics import vqa_answers

# Split -> its name in COCO's files, and how many pictures it has; questions are twice as many.
SPLITS = {"train": ("train2014", 1000), "val": ("val2014", 200), "test": ("test2015", 1000)}
_ANNOTATORS = 10


class Asked(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str
    answer_type: str
    question_type: str


def make(making: Making) -> None:
    """The pictures, questions and annotations of all splits."""
    first = 1  # image ids of the splits do not overlap, as COCO's
    for split, (folder, count) in SPLITS.items():
        there = Stage(making.root / "objects", split)
        rng = stage.numbers("vqa", split)
        pictures = making.folder / folder
        pictures.mkdir()
        found = []
        for image_id, (picture, asked) in zip(
            making.each(range(first, first + count)),
            scenes_with_questions(there, rng),
            strict=False,
        ):
            path = pictures / f"COCO_{folder}_{image_id:012d}.jpg"
            path.write_bytes(drawings.encode_jpeg(picture.pixels))
            found += [(image_id * 1000 + n, image_id, each) for n, each in enumerate(asked)]
        write_official(making.folder, folder, found, "composed scenes of the demo corpus")
        making.counts[split] = len(found)
        making.counts[f"{split} pictures"] = count
        first += count
        if split == "train":
            answers = vqa_answers.build_list([asked.answer for _, _, asked in found], least=1)
            answers.save(making.folder / "answers.json")
    making.facts["answer_types"] = ["yes/no", "number", "place", "ground"]


def scenes_with_questions(
    there: Stage, rng: np.random.Generator
) -> Iterator[tuple[Picture, list[Asked]]]:
    """Pictures without end, each with two questions; the four kinds take turns."""
    kinds: list[Callable] = [_exists, _count, _place, _ground]
    turns = [there.turns(rng) for _ in kinds]
    while True:
        for kind, turn in zip(kinds, turns, strict=True):
            picture, pair = kind(there, rng, turn)
            yield picture, [pair[i] for i in rng.permutation(2)]


def _exists(there: Stage, rng: np.random.Generator, turn: Iterator[int]):
    here, absent = next(turn), next(turn)
    which = there.cast(rng, int(rng.choice(there.layout.counts)), include=[here], exclude=[absent])
    return there.free([which[i] for i in rng.permutation(len(which))], rng), [
        Asked(f"is there {scenes.caption([there.names[i]])}?", said, "yes/no", "is there")
        for i, said in ((here, "yes"), (absent, "no"))
    ]


def _count(there: Stage, rng: np.random.Generator, turn: Iterator[int]):
    which = there.cast(rng, 3, include=[next(turn)])
    which = [which[i] for i in rng.permutation(3)]
    sides, colours = [which[:1], which[1:]], _colours(rng)
    if rng.random() < 0.5:
        sides.reverse()
    return there.halves(sides[0], sides[1], colours, rng), [
        Asked(f"how many things are on the {colour} ground?", str(len(side)), "number", "how many")
        for colour, side in zip(colours, sides, strict=True)
    ]


def _place(there: Stage, rng: np.random.Generator, turn: Iterator[int]):
    # Both ends are answers: the turn gives one, at either side.
    which = there.cast(rng, 3, include=[next(turn)])
    order = [which[0], *(which[i] for i in 1 + rng.permutation(2))]
    if rng.random() < 0.5:
        order.reverse()
    left, middle, right = (there.names[i] for i in order)
    return there.row(order, rng), [
        Asked(f"what is {side} of the {middle}?", answer, "place", f"what is {side} of")
        for side, answer in (("left", left), ("right", right))
    ]


def _ground(there: Stage, rng: np.random.Generator, turn: Iterator[int]):
    which = there.cast(rng, 2, include=[next(turn)])
    which = [which[i] for i in rng.permutation(2)]
    colours = _colours(rng)
    return there.halves(which[:1], which[1:], colours, rng), [
        Asked(f"what is on the {colour} ground?", there.names[i], "ground", "what is on the")
        for colour, i in zip(colours, which, strict=True)
    ]


def _colours(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.permutation(list(stage.GROUNDS))[:2].tolist()
    return first, second


def official_names(subtype: str) -> tuple[str, str]:
    """The files of questions and of annotations of a split ("train2014")."""
    return (
        f"v2_OpenEnded_mscoco_{subtype}_questions.json",
        f"v2_mscoco_{subtype}_annotations.json",
    )


def write_official(
    to: pathlib.Path, subtype: str, found: list[tuple[int, int, Asked]], description: str
) -> None:
    """Writes the two files of a split.

    Args:
        to: folder.
        subtype: "train2014".
        found: (question id, image id, question with its answer), which all annotators give.
        description: what these pictures are.
    """
    head = {
        "info": {"description": description, "version": "2.0"},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "data_subtype": subtype,
        "license": {},
    }
    questions = [
        {"image_id": image, "question": asked.question, "question_id": key}
        for key, image, asked in found
    ]
    annotations = [
        {
            "question_id": key,
            "image_id": image,
            "question_type": asked.question_type,
            "answer_type": asked.answer_type,
            "multiple_choice_answer": asked.answer,
            "answers": [
                {"answer": asked.answer, "answer_confidence": "yes", "answer_id": n + 1}
                for n in range(_ANNOTATORS)
            ],
        }
        for key, image, asked in found
    ]
    contents = {"questions": questions}, {"annotations": annotations}
    for name, content in zip(official_names(subtype), contents, strict=True):
        files.write_whole(to / name, json.dumps({**head, **content}, ensure_ascii=False))
