"""`vqa:QUESTIONS[:ANNOTATIONS][@IMAGES]`: questions about images, with the annotators' answers.

    vqa:v2_OpenEnded_mscoco_val2014_questions.json:v2_mscoco_val2014_annotations.json@data/coco
    vqa:v2_OpenEnded_mscoco_test2015_questions.json@data/coco          (no answers)
    vqa:vqa_train.json@data                                            (ALBEF, X-VLM, X-FM)
    vqa:question_answers.json@data/vg                                  (Visual Genome)

| field | what |
| --- | --- |
| `id` | the question's |
| `image`, `image_id` | path; the id, where the file has one |
| `question` | as it is |
| `answers` | the ten answers as they are; absent in test files |
| `answer_type`, `question_type` | where the file has them |
| `dataset` | "vqa", "vg", "gqa": in ALBEF's form, and "vg" for Visual Genome |

COCO's images are looked for as `COCO_val2014_000000000042.jpg` below IMAGES and below
`IMAGES/val2014`; Visual Genome's as `42.jpg` there and below `VG_100K`, `VG_100K_2` and `images`.
The answers of Visual Genome are in lower case here, without the dot at their end.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from unified_fm import buckets
from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import base

VG_FOLDERS = ("", "VG_100K/", "VG_100K_2/", "images/")
_KINDS = (
    '{"questions": [...]} (VQA v2), an array of {"question_id", "question", "image"} (ALBEF), or an'
    ' array of {"id", "qas"} (Visual Genome)'
)


class Question(NamedTuple):
    """A question and what is known of it."""

    id: int | str
    text: str
    images: tuple[str, ...]  # paths below the folder of images; the first that is there counts
    answers: tuple[str, ...] = ()
    image_id: int | str | None = None
    answer_type: str = ""
    question_type: str = ""
    dataset: str = ""


class Answered(NamedTuple):
    """What an annotation file says of a question."""

    answers: tuple[str, ...]
    image_id: int | str | None
    answer_type: str
    question_type: str
    multiple_choice_answer: str


class Source(base.Source):
    """Random access to the questions; see the module for the fields."""

    def __init__(self, argument: str):
        """Reads the files.

        Raises:
            ValueError: another layout, or a question without annotation.
            FileNotFoundError: no such file.
        """
        parts = official.argument(argument, "vqa")
        self._file = parts.file
        self._images = official.Images(parts.images, parts.file)
        annotations = buckets.path(parts.part) if parts.part else None
        if annotations and not buckets.isfile(annotations) and not annotations.is_absolute():
            annotations = parts.file.parent / annotations  # beside the questions
        self._rows = read(parts.file, annotations)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        example = {"id": row.id, "image": self._images.find(*row.images), "question": row.text}
        more = {
            "answers": list(row.answers),
            "image_id": row.image_id,
            "answer_type": row.answer_type,
            "question_type": row.question_type,
            "dataset": row.dataset,
        }
        return example | {
            name: value for name, value in more.items() if value not in (None, "", [])
        }

    def place(self, index: int) -> str:
        """The file and the question's id."""
        return f"{self._file}, question {self._rows[index].id}"


def read(file: pathlib.Path, annotations: pathlib.Path | None = None) -> list[Question]:
    """The questions, in the order of the file.

    Raises:
        WrongFile: another layout; or annotations, of which a question has none.
    """
    found = official.load_json(file)
    if isinstance(found, Mapping):
        answers = read_annotations(annotations) if annotations else None
        return _official(found, file, answers, annotations)
    rows = official.array(found, file)
    if annotations:
        raise WrongFile(f"{file} is an array, which has its answers itself: no {annotations}")
    if rows and "qas" in rows[0]:
        return _visual_genome(rows, file)
    if rows and "question_id" not in rows[0]:
        raise WrongFile(f"{file} is none of {_KINDS}: the first row has {', '.join(rows[0])}")
    return [_albef(record, f"{file}, row {number}") for number, record in enumerate(rows)]


def read_annotations(file: pathlib.Path) -> dict[int | str, Answered]:
    """{question id: what the annotators said} of a VQA v2 annotation file, or of ALBEF's form.

    Raises:
        WrongFile: another layout, a question twice, or no answers.
    """
    found = official.load_json(file, hook=_condensed)
    if isinstance(found, list):
        answered = {
            q.id: Answered(q.answers, q.images[0], "", "", "") for q in read(file) if q.answers
        }
        if not answered:
            raise WrongFile(f"{file} has no answers: a test file cannot be scored against")
        return answered
    answered = {}
    for number, record in enumerate(official.array(found, file, "annotations")):
        where = f"{file}: annotations[{number}]"
        key = official.field(record, "question_id", (int, str), where)
        answers = official.texts(official.field(record, "answers", list, where), where)
        if key in answered:
            raise WrongFile(f"{where} has the question {key!r} of another annotation")
        if not answers:
            raise WrongFile(f"{where} has no answers")
        answered[key] = Answered(
            tuple(answers),
            record.get("image_id"),
            sys.intern(str(record.get("answer_type", ""))),
            sys.intern(str(record.get("question_type", ""))),
            str(record.get("multiple_choice_answer", "")),
        )
    return answered


def _condensed(record: dict[str, Any]) -> Any:
    """One of ten answers as its string: the objects of 2 million would fill the memory."""
    if "answer_id" in record and isinstance(record.get("answer"), str):
        return sys.intern(record["answer"])
    return record


def _official(
    found: Mapping[str, Any],
    file: pathlib.Path,
    answers: dict[int | str, Answered] | None,
    annotations: pathlib.Path | None,
) -> list[Question]:
    if "questions" not in found and "annotations" in found:
        raise WrongFile(f"{file} has the answers; give the questions first: vqa:QUESTIONS:{file}")
    folder = str(found.get("data_subtype", "")).replace("test-dev", "test")
    rows = []
    for number, record in enumerate(official.array(found, file, "questions")):
        where = f"{file}: questions[{number}]"
        key = official.field(record, "question_id", (int, str), where)
        image = official.field(record, "image_id", int, where)
        name = f"COCO_{folder}_{image:012d}.jpg"
        row = Question(
            key,
            official.field(record, "question", str, where),
            (name, f"{folder}/{name}"),
            image_id=image,
            dataset="vqa",
        )
        if answers is not None:
            if key not in answers:
                raise WrongFile(f"{where}: {annotations} has no question {key!r}")
            known = answers[key]
            row = row._replace(
                answers=known.answers,
                answer_type=known.answer_type,
                question_type=known.question_type,
            )
        rows.append(row)
    return rows


def _albef(record: dict[str, Any], where: str) -> Question:
    answer = record.get("answer", [])
    return Question(
        official.field(record, "question_id", (int, str), where),
        official.field(record, "question", str, where),
        (official.field(record, "image", str, where),),
        tuple(official.texts(answer, where)),
        dataset=str(record.get("dataset", "")),
    )


def _visual_genome(rows: list[dict[str, Any]], file: pathlib.Path) -> list[Question]:
    found = []
    for number, record in enumerate(rows):
        where = f"{file}, row {number}"
        image = official.field(record, "id", int, where)
        for pair in official.field(record, "qas", list, where):
            answer = official.field(pair, "answer", str, where).strip().lower().removesuffix(".")
            found.append(
                Question(
                    official.field(pair, "qa_id", (int, str), where),
                    official.field(pair, "question", str, where),
                    tuple(f"{folder}{image}.jpg" for folder in VG_FOLDERS),
                    (answer,),
                    image_id=image,
                    dataset="vg",
                )
            )
    return found
