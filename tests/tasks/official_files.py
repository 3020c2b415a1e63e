"""Tiny files in the layouts in which data sets are published, for readers, scores and configs."""

import json
import pathlib

from PIL import Image

# Task -> its training rows, header first where there is one.
GLUE = {
    "CoLA": ["gj04\t1\t\tA dog runs.", 'gj04\t0\t*\tRuns "dog a.', "gj05\t1\t\tIt rains."],
    "SST-2": ["sentence\tlabel", 'a "fine film \t1', "dull \t0"],
    "MRPC": [
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t11\t12\tHe said "yes.\tHe agreed.',
        "0\t13\t14\tIt rose.\tIt fell.",
        "1\t15\t16\tIt fell.\tIt sank.",
    ],
    "QQP": [
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "7\t1\t2\tHow?\tWhy?\t0",
        "8\t3\t4\tbroken",
        "9\t5\t6\tWhen?\tAt what time?\t1",
    ],
    "STS-B": [
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tf\t2012\t1\tnone\tnone\tA man.\tA person.\t4.250",
        "1\tnews\tf\t2012\t2\tnone\tnone\tA man.\tA car.\t0.0",
    ],
    "MNLI": [
        "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t1n\tfiction\t(\t(\t(\t(\tIt rains.\tIt is wet.\tentailment\tentailment",
        "1\t2\t2n\tfiction\t(\t(\t(\t(\tIt rains.\tIt is dry.\tcontradiction\tcontradiction",
        "2\t3\t3n\tfiction\t(\t(\t(\t(\tIt rains.\tWho knows.\tneutral\t-",
    ],
    "QNLI": [
        "index\tquestion\tsentence\tlabel",
        "0\tWho ran?\tThe dog ran.\tentailment",
        "1\tWho ran?\tIt rained.\tnot_entailment",
    ],
    "RTE": [
        "index\tsentence1\tsentence2\tlabel",
        "0\tThe dog ran.\tA dog ran.\tentailment",
        "1\tThe dog ran.\tA cat ran.\tnot_entailment",
    ],
    "WNLI": [
        "index\tsentence1\tsentence2\tlabel",
        "0\tIt broke.\tThe cup broke.\t1",
        "1\tIt broke.\tThe hand broke.\t0",
    ],
}
GLUE_TEST = {
    "CoLA": ["index\tsentence", "0\tA dog.", "1\tDog a."],
    "SST-2": ["index\tsentence", "0\tfine", "1\tdull"],
    "MRPC": ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t1\t2\tA.\tB.", "1\t3\t4\tC.\tD."],
    "QQP": ["id\tquestion1\tquestion2", "0\tHow?\tWhy?", "1\tWho?\tWhen?"],
    "STS-B": [GLUE["STS-B"][0].removesuffix("\tscore")]
    + [row.rpartition("\t")[0] for row in GLUE["STS-B"][1:]],
    "QNLI": ["index\tquestion\tsentence", "0\tWho?\tHe.", "1\tWhen?\tNow."],
    "RTE": ["index\tsentence1\tsentence2", "0\tA.\tB.", "1\tC.\tD."],
    "WNLI": ["index\tsentence1\tsentence2", "0\tA.\tB.", "1\tC.\tD."],
    "AX": ["index\tsentence1\tsentence2", "0\tA.\tB.", "1\tC.\tD."],
}


def write_glue(root: pathlib.Path) -> pathlib.Path:
    """All tasks: train, dev (the rows of train) and test."""
    for folder, rows in GLUE.items():
        dev = ("dev_matched", "dev_mismatched") if folder == "MNLI" else ("dev",)
        for split in ("train", *dev):
            write_rows(root / folder / f"{split}.tsv", rows)
    for folder, rows in GLUE_TEST.items():
        write_rows(root / folder / "test.tsv", rows)
    head = "\t".join(GLUE["MNLI"][0].split("\t")[:10])
    for split in ("test_matched", "test_mismatched"):
        row = "0\t1\t1n\tfiction\t(\t(\t(\t(\tIt rains.\tIt is wet."
        write_rows(root / "MNLI" / f"{split}.tsv", [head, row])
    return root


def write_rows(path: pathlib.Path, rows: list[str]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(rows) + "\n").encode())
    return path


def write_json(path: pathlib.Path, content) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_lines(path: pathlib.Path, records) -> pathlib.Path:
    return write_rows(path, [json.dumps(record) for record in records])


def write_image(path: pathlib.Path, size=(40, 30)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path, path.suffix[1:].replace("jpg", "jpeg"))
    return str(path)


def write_karpathy(root: pathlib.Path, flickr: bool = False) -> pathlib.Path:
    """Six images of four splits; the first of "test" has six captions."""
    images = []
    folder = "" if flickr else "val2014"
    for number, split in enumerate(["train", "restval", "val", "test", "test", "train"]):
        name = f"COCO_val2014_{number:012d}.jpg"
        write_image(root / folder / name)
        captions = [f"picture {number} caption {k}" for k in range(6 if number == 3 else 5)]
        images.append(
            ({} if flickr else {"filepath": folder, "cocoid": 100 + number})
            | {
                "filename": name,
                "imgid": number,
                "split": split,
                "sentids": [10 * number + k for k in range(len(captions))],
                "sentences": [
                    {"raw": raw, "tokens": raw.split(), "imgid": number, "sentid": 10 * number + k}
                    for k, raw in enumerate(captions)
                ],
            }
        )
    name = "flickr30k" if flickr else "coco"
    return write_json(root / f"dataset_{name}.json", {"dataset": name, "images": images})


VQA_ANSWERS = {
    1000: ("yes/no", ["yes"] * 10),
    1001: ("number", ["2"] * 7 + ["two", "3", "3"]),
    2000: ("other", ["red"] * 3 + ["the red one"] * 3 + ["brown"] * 4),
}


def write_vqa(root: pathlib.Path, split: str = "val2014") -> tuple[pathlib.Path, pathlib.Path]:
    """Three questions about images 1 and 2, and their annotations."""
    for image in (1, 2):
        write_image(root / split / f"COCO_{split}_{image:012d}.jpg")
    questions = [
        {"image_id": key // 1000, "question": f"What about {key}?", "question_id": key}
        for key in VQA_ANSWERS
    ]
    head = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}}
    head["data_subtype"] = split
    annotations = [
        {
            "question_id": key,
            "image_id": key // 1000,
            "question_type": "what",
            "answer_type": kind,
            "multiple_choice_answer": answers[0],
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": n}
                for n, answer in enumerate(answers, start=1)
            ],
        }
        for key, (kind, answers) in VQA_ANSWERS.items()
    ]
    return (
        write_json(
            root / f"v2_OpenEnded_mscoco_{split}_questions.json", {**head, "questions": questions}
        ),
        write_json(
            root / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": annotations}
        ),
    )


NLVR2 = [
    ("dev-850-0-0", "True"),
    ("dev-850-1-0", "False"),
    ("dev-850-0-1", "True"),
    ("dev-851-0-0", "False"),
]


def write_nlvr2(root: pathlib.Path, *, whole: bool = False) -> pathlib.Path:
    """Four pairs, one object per line in a .json; unless `whole` set 851 has no images."""
    for stem in ("dev-850-0", "dev-850-1", *(["dev-851-0"] if whole else [])):
        for side in (0, 1):
            write_image(root / "dev" / f"{stem}-img{side}.png")
    records = [
        {
            "sentence": f"sentence of {name}",
            "left_url": "https://example.org/l.png",
            "right_url": "https://example.org/r.png",
            "label": label,
            "identifier": name,
            "writer": "1",
            "validation": [],
            "synset": "hat",
            "query": "hats1",
        }
        for name, label in NLVR2
    ]
    return write_lines(root / "dev.json", records)


REFCOCO = [
    ("val", 7, 1, [10.0, 5.0, 20.0, 10.0], ["the left one", "a red hat"]),
    ("testA", 8, 2, [0.0, 0.0, 8.0, 8.0], ["the man"]),
    ("testA", 9, 2, [20.0, 10.0, 10.0, 15.0], ["the tall man", "man at the right"]),
]


def write_refcoco(root: pathlib.Path) -> pathlib.Path:
    """Our JSONL: three objects of two images, five expressions."""
    lines, sent = [], 0
    for split, ref, image, box, expressions in REFCOCO:
        name = f"COCO_train2014_{image:012d}.jpg"
        write_image(root / "train2014" / name)
        lines.append(
            {
                "image": name,
                "image_id": image,
                "ref_id": ref,
                "ann_id": 90 + ref,
                "split": split,
                "box": box,
                "width": 40,
                "height": 30,
                "sentences": [
                    {"sent_id": sent + k, "text": text} for k, text in enumerate(expressions)
                ],
            }
        )
        sent += len(expressions)
    return write_lines(root / "refcoco.jsonl", lines)


def write_mdetr(root: pathlib.Path, name: str, split: str, folder: pathlib.Path) -> pathlib.Path:
    """MDETR's form of one split: an "image" for each of two expressions, pictures in `folder`."""
    rows = [(1, "the left one", [10.0, 5.0, 20.0, 10.0]), (2, "the man", [0.0, 0.0, 8.0, 8.0])]
    images, annotations = [], []
    for key, expression, box in rows:
        file = f"COCO_train2014_{key:012d}.jpg"
        write_image(folder / file)
        size = {"width": 40, "height": 30}
        images.append({"id": key, "file_name": file, "caption": expression, "original_id": key})
        images[-1] |= size
        annotations.append({"id": key, "image_id": key, "bbox": box, "original_id": 90 + key})
    return write_json(
        root / f"finetune_{name}_{split}.json", {"images": images, "annotations": annotations}
    )


def write_classes(root: pathlib.Path) -> pathlib.Path:
    """ImageNet's folders of two classes, three pictures in each."""
    for name in ("n01440764", "n01443537"):
        for number in range(3):
            write_image(root / name / f"{name}_{number}.jpg")
    return root


def write_coco_captions(root: pathlib.Path, references: dict[int, list[str]]) -> pathlib.Path:
    """COCO's annotations of these images."""
    annotations = [
        {"image_id": image, "id": 10 * image + k, "caption": caption}
        for image, captions in references.items()
        for k, caption in enumerate(captions)
    ]
    images = [{"id": image, "file_name": f"COCO_val2014_{image:012d}.jpg"} for image in references]
    return write_json(
        root / "captions_val2014.json", {"images": images, "annotations": annotations}
    )
