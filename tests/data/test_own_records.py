"""A user's JSONL keeps its fields, and the quick start's evaluators run on it."""

import base64
import io
import json

import pytest
from PIL import Image

from configs import quickstart
from tests.evaluators import worlds
from unified_fm import plugins
from unified_fm.data import source
from unified_fm.data.skips import Skip


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)))
    return source.open_source(f"jsonl:{path}")


def png(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def test_what_jsonl_does_not_know_is_passed_on(tmp_path):
    (read,) = write(
        tmp_path / "x.jsonl",
        [
            {
                "desc": "a cup",
                "image_id": 3,
                "question": "what?",
                "answers": [{"answer": "cup", "n": 2}],
                "objects": ["cup"],
                "regions": [{"bb": [0, 0, 1, 1], "caption": "cup", "sentences": ["the cup"]}],
            }
        ],
    )
    assert read == {
        "text": "a cup",
        "id": 3,
        "question": "what?",
        "answers": [{"answer": "cup", "n": 2}],
        "objects": ["cup"],
        "regions": [
            {"box": [0, 0, 1, 1], "text": "cup", "attributes": None, "sentences": ["the cup"]}
        ],
    }


def test_a_list_of_images_stays_a_list(tmp_path):
    picture = png(worlds.square(1))
    encoded = base64.b64encode(picture).decode()
    read = write(
        tmp_path / "x.jsonl",
        [
            {"images": ["a/1.png", encoded], "label": 1},
            {"images": ["../1.png"]},
            {"images": "1.png"},
        ],
    )
    assert read[0] == {"images": [str(tmp_path / "a" / "1.png"), picture], "label": 1, "id": 0}
    with pytest.raises(Skip, match="image path outside the data folder"):
        read[1]
    with pytest.raises(Skip, match="images of a wrong type"):
        read[2]


def test_the_quick_starts_evaluators_run_on_a_users_file(tmp_path):
    records = [
        record | {"image": base64.b64encode(png(record["image"])).decode()}
        for record in worlds.WORLDS["eight"]
    ]
    write(tmp_path / "mine.jsonl", records)
    tokenizer = worlds.make_tokenizer()
    apply = worlds.Apply(worlds.Oracle(tokenizer))
    found = {}
    for key, entry in quickstart.get_config().evaluate.evaluators.to_dict().items():
        entry["source"] = f"jsonl:{tmp_path / 'mine.jsonl'}"
        entry["options"] = worlds.OPTIONS if key != "mlm" else {"max_len": 12}
        entry |= {"train_source": entry["source"]} if key == "mlm" else {}
        entry |= {"candidates": 4} if key == "retrieval" else {}
        evaluator = plugins.build("evaluators", key, **entry, tokenizer=tokenizer)
        found[key] = {m.name: m.value for m in evaluator.run(apply, {})}
    assert found["imlm"] == {"object_word/accuracy": 1.0}  # by the records' own `objects`
    assert found["grounding"]["mean_iou"] > 0.99
    assert found.keys() == {"retrieval", "itm", "imlm", "grounding", "mlm"}
    assert all(found.values())
