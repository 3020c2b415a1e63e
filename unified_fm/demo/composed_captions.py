"""Captions of composed scenes, in Karpathy's file and in COCO's.

    dataset_demo.json                                all splits: retrieval and captioning
    captions_{train,val,test}.json                   one split each, COCO's annotations
    train/000000000042.jpg  val/...  test/...

A caption names all things; the captions of a picture differ in their order, so a picture of two
things has two and one of three has five of the six. Within val and within test no two pictures show
the same things: a retrieval has one right picture for each caption.
"""

import itertools
import json

import numpy as np

from unified_fm import files
from unified_fm.demo import drawings, scenes, stage
from unified_fm.demo.making import Making
from unified_fm.demo.stage import Stage

SPLITS = {"train": 1000, "val": 200, "test": 500}
_TRIES = 10_000
_MOST = 5  # captions of a picture, as COCO has


def make(making: Making) -> None:
    """The pictures and captions of all splits."""
    records: list[dict] = []
    sentence = itertools.count(1)
    for split, count in SPLITS.items():
        there = Stage(making.root / "objects", split)
        rng = stage.numbers("captions", split)
        (making.folder / split).mkdir()
        seen: set[frozenset[int]] = set()
        for _ in making.each(range(count)):
            which = _cast(there, rng, seen, distinct=split != "train")
            image = len(records)
            name = f"{image + 1:012d}.jpg"
            picture = there.free(which, rng)
            (making.folder / split / name).write_bytes(drawings.encode_jpeg(picture.pixels))
            records.append(
                {
                    "filepath": split,
                    "filename": name,
                    "imgid": image,
                    "cocoid": image + 1,
                    "split": split,
                    "sentences": [
                        {"raw": text, "tokens": text.replace(",", "").split(), "imgid": image}
                        | {"sentid": next(sentence)}
                        for text in _captions(there, which, rng)
                    ],
                }
            )
        part = [record for record in records if record["split"] == split]
        files.write_whole(making.folder / f"captions_{split}.json", json.dumps(_coco(part)))
        making.counts[split] = count
        making.counts[f"{split} captions"] = sum(len(r["sentences"]) for r in part)
    text = json.dumps({"dataset": "demo", "images": records}, ensure_ascii=False)
    files.write_whole(making.folder / "dataset_demo.json", text)


def _cast(
    there: Stage, rng: np.random.Generator, seen: set[frozenset[int]], distinct: bool
) -> list[int]:
    """Two or three objects; where `distinct`, none of those sets that were there before."""
    counts = [n for n in there.layout.counts if n > 1]
    for _ in range(_TRIES):
        which = there.cast(rng, int(rng.choice(counts)))
        if not distinct or frozenset(which) not in seen:
            seen.add(frozenset(which))
            return [which[i] for i in rng.permutation(len(which))]
    raise ValueError(f"no picture of other things than those of {len(seen)} before was found")


def _captions(there: Stage, which: list[int], rng: np.random.Generator) -> list[str]:
    orders = list(itertools.permutations(which))
    chosen = [orders[i] for i in rng.permutation(len(orders))[:_MOST]]
    return [scenes.caption([there.names[i] for i in order]) for order in chosen]


def _coco(records: list[dict]) -> dict:
    """The same in COCO's layout of annotations."""
    return {
        "info": {"description": "composed scenes of the demo corpus"},
        "images": [
            {"id": record["cocoid"], "file_name": f"{record['filepath']}/{record['filename']}"}
            for record in records
        ],
        "annotations": [
            {"image_id": record["cocoid"], "id": each["sentid"], "caption": each["raw"]}
            for record in records
            for each in record["sentences"]
        ],
    }
