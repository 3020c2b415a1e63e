"""easy-VQA in the files of VQA v2, with the questions for shape and for colour apart.

The official test split is kept; a tenth of the training images is held out as val. Two thirds of
the test questions are answered by the question alone: `answer_type` is "yes/no", "shape" or
"colour", and the last two are the ones that need the picture. answers.json are those of training.
"""

import json

import numpy as np
from PIL import Image

from unified_fm.demo import composed_vqa, drawings, packages
from unified_fm.demo.composed_vqa import Asked
from unified_fm.demo.making import Making, split_of
from unified_fm.tasks._metrics import vqa_answers

_SHAPES = ("circle", "rectangle", "triangle")
_FOLDERS = {split: folder for split, (folder, _) in composed_vqa.SPLITS.items()}
_TEST_IDS = 100_000  # image ids of the test set begin here: both sets count from 0


def make(making: Making) -> None:
    """The pictures, questions and annotations of all splits."""
    root = packages.folder("easy-vqa") / "data"
    found: dict[str, list[tuple[int, int, Asked]]] = {split: [] for split in _FOLDERS}
    for official in ("train", "test"):
        asked: dict[int, list[Asked]] = {}
        for question, answer, image in json.loads(
            (root / official / "questions.json").read_text(encoding="utf-8")
        ):
            asked.setdefault(image, []).append(_asked(question, answer))
        for path in making.each(packages.easy_vqa_images(official)):
            number = int(path.stem)
            if number not in asked:
                making.skip("picture without questions")
                continue
            split = split_of(f"easy-vqa {number}", val=0.1) if official == "train" else "test"
            image_id = number + (_TEST_IDS if official == "test" else 0)
            folder = making.folder / _FOLDERS[split]
            folder.mkdir(exist_ok=True)
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            file = folder / f"COCO_{folder.name}_{image_id:012d}.jpg"
            file.write_bytes(drawings.encode_jpeg(pixels))
            found[split] += [
                (image_id * 1000 + n, image_id, each) for n, each in enumerate(asked[number])
            ]
    for split, rows in found.items():
        composed_vqa.write_official(making.folder, _FOLDERS[split], rows, "easy-VQA 1.0")
        if split == "train":
            listed = vqa_answers.build_list([asked.answer for _, _, asked in rows], least=1)
            listed.save(making.folder / "answers.json")
        making.counts[split] = len(rows)
        making.counts[f"{split} pictures"] = len({image for _, image, _ in rows})
    making.facts["answer_types"] = ["yes/no", "shape", "colour"]


def _asked(question: str, answer: str) -> Asked:
    kinds: dict[str, str] = dict.fromkeys(("yes", "no"), "yes/no")
    kinds |= dict.fromkeys(_SHAPES, "shape")
    kind = kinds.get(answer, "colour")
    return Asked(question, answer, kind, " ".join(question.lower().split()[:2]))
