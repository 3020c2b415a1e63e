"""Retrieval, VQA, NLVR2, RefCOCO and captions in the layouts in which they are published."""

import json

import pytest

from tests.tasks import official_files as files
from unified_fm.data import identity, official
from unified_fm.data.official import WrongFile
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source
from unified_fm.data.sources import coco, refcoco, vqa


def read_all(spec):
    source = open_source(spec)
    return [source[k] for k in range(len(source))]


def test_karpathys_splits(tmp_path):
    file = files.write_karpathy(tmp_path)
    sizes = {
        split: len(open_source(f"karpathy:{file}:{split}"))
        for split in ("train", "train-only", "restval", "val", "test")
    }
    assert sizes == {"train": 3, "train-only": 2, "restval": 1, "val": 1, "test": 2}
    first, second = read_all(f"karpathy:{file}:test")
    assert (first["id"], len(first["text"]), len(second["text"])) == (103, 6, 5)
    assert first["image"] == str(tmp_path / "val2014" / "COCO_val2014_000000000003.jpg")
    with pytest.raises(WrongFile, match=r"has no split 'tset'; did you mean 'test'\?"):
        open_source(f"karpathy:{file}:tset")


def test_flickrs_file_has_no_folder_and_no_cocoid(tmp_path):
    files.write_image(tmp_path / "images" / "1.jpg")
    sentence = {"raw": "a dog", "tokens": [], "imgid": 4, "sentid": 1}
    image = {"filename": "1.jpg", "imgid": 4, "split": "val", "sentences": [sentence]}
    file = files.write_json(tmp_path / "dataset_flickr30k.json", {"images": [image]})
    [example] = read_all(f"karpathy:{file}:val@{tmp_path / 'images'}")
    assert (example["id"], example["text"]) == (4, ["a dog"])


def test_albefs_rows_of_training_and_of_evaluation(tmp_path):
    files.write_image(tmp_path / "images" / "val2014" / "1.jpg")
    rows = [{"image": "coco/val2014/1.jpg", "caption": "a dog", "image_id": "coco_9"}]
    train = files.write_json(tmp_path / "train.json", rows)
    rows = [{"image": "val2014/1.jpg", "caption": ["a dog", "a cat"]}]
    test = files.write_json(tmp_path / "test.json", rows)
    first, second = read_all(f"albef:{train}@{tmp_path / 'images'}+albef:{test}@{tmp_path}/images")
    path = str(tmp_path / "images" / "val2014" / "1.jpg")
    assert first == {"id": "0/coco_9", "image": path, "text": ["a dog"]}
    assert second == {"id": "1/0", "image": path, "text": ["a dog", "a cat"]}
    with pytest.raises(Skip, match=r"image is not there: tried .*/coco/val2014/1\.jpg"):
        open_source(f"albef:{train}")[0]  # no folder given: the first part stays


def test_vqa_questions_and_annotations(tmp_path):
    questions, annotations = files.write_vqa(tmp_path)
    found = read_all(f"vqa:{questions}:{annotations}@{tmp_path}")
    assert [example["id"] for example in found] == [1000, 1001, 2000]
    assert found[1] == {
        "id": 1001,
        "image": str(tmp_path / "val2014" / "COCO_val2014_000000000001.jpg"),
        "question": "What about 1001?",
        "answers": ["2"] * 7 + ["two", "3", "3"],
        "image_id": 1,
        "answer_type": "number",
        "question_type": "what",
        "dataset": "vqa",
    }
    beside = open_source(
        f"vqa:{questions}:{annotations.name}"
    )  # a name alone: beside the questions
    assert beside[1] == found[1]
    assert "answers" not in open_source(f"vqa:{questions}")[0]  # as of test2015


def test_vqa_in_albefs_form_and_visual_genome(tmp_path):
    files.write_image(tmp_path / "1.jpg")
    rows = [
        {"question_id": 5, "question": "Is it?", "answer": ["yes"] * 10, "image": "1.jpg"},
        {"question_id": 6, "question": "Is it?", "answer": "no", "image": "1.jpg", "dataset": "vg"},
        {"question_id": 7, "question": "Is it?", "image": "1.jpg"},
    ]
    found = read_all(f"vqa:{files.write_json(tmp_path / 'vqa_train.json', rows)}")
    assert [example.get("answers") for example in found] == [["yes"] * 10, ["no"], None]
    assert found[1]["dataset"] == "vg"
    pairs = [{"qa_id": 3, "question": "What?", "answer": "A red Hat."}]
    file = files.write_json(tmp_path / "question_answers.json", [{"id": 1, "qas": pairs}])
    [example] = read_all(f"vqa:{file}")
    assert (example["id"], example["answers"], example["dataset"]) == (3, ["a red hat"], "vg")


def test_vqa_files_that_do_not_belong_together_are_refused(tmp_path):
    questions, annotations = files.write_vqa(tmp_path)
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    fewer = files.write_json(tmp_path / "fewer.json", content)
    with pytest.raises(WrongFile, match=r"questions\[2\]: .*fewer\.json has no question 2000"):
        open_source(f"vqa:{questions}:{fewer}")
    with pytest.raises(WrongFile, match="has the answers; give the questions first"):
        open_source(f"vqa:{annotations}")
    content["annotations"].append(content["annotations"][0])
    with pytest.raises(WrongFile, match=r"annotations\[2\] has the question 1000 of another"):
        vqa.read_annotations(files.write_json(tmp_path / "twice.json", content))


def test_nlvr2_official_lines(tmp_path):
    source = open_source(f"nlvr2:{files.write_nlvr2(tmp_path)}")
    example = source[1]
    assert (example["id"], example["label"]) == ("dev-850-1-0", 0)
    assert source.class_names == ("False", "True")
    assert example["images"] == [
        str(tmp_path / "dev" / f"dev-850-1-img{side}.png") for side in (0, 1)
    ]
    assert source[2]["images"] == source[0]["images"]  # two sentences of one pair
    with pytest.raises(Skip, match=r"image is not there: tried .*dev-851-0-img0\.png"):
        source[3]


def test_nlvr2_of_training_and_in_albefs_form(tmp_path):
    for side in (0, 1):
        files.write_image(tmp_path / "images" / "train" / "42" / f"train-1-0-img{side}.png")
    record = {"identifier": "train-1-0-0", "sentence": "s", "label": "True", "directory": 42}
    [example] = read_all(f"nlvr2:{files.write_lines(tmp_path / 'train.json', [record])}")
    assert example["images"][1].endswith("images/train/42/train-1-0-img1.png")
    names = ["images/train/42/train-1-0-img1.png", "images/train/42/train-1-0-img0.png"]
    rows = [{"images": names, "sentence": "s", "label": "False"}]
    [example] = read_all(f"nlvr2:{files.write_json(tmp_path / 'nlvr_train.json', rows)}")
    assert (example["label"], example["images"][0][-8:]) == (0, "img1.png")
    rows[0]["label"] = "false"
    with pytest.raises(WrongFile, match=r"row 0: label is 'false'; possible: False, True \(as wo"):
        open_source(f"nlvr2:{files.write_json(tmp_path / 'x.json', rows)}")


def test_refcoco_in_our_lines(tmp_path):
    file = files.write_refcoco(tmp_path)
    found = read_all(f"refcoco:{file}:testA")
    assert [example["text"] for example in found] == ["the man", "the tall man", "man at the right"]
    assert found[0]["box"] == [0, 0, 8, 8]
    assert found[0]["image"] == str(tmp_path / "train2014" / "COCO_train2014_000000000002.jpg")
    assert found[0]["regions"] == [{"box": [0, 0, 8, 8], "text": "the man"}]
    assert found[0]["size"] == [40, 30]
    assert refcoco.counts(refcoco.read(file)) == {"val": (1, 1, 2), "testA": (2, 1, 3)}
    with pytest.raises(WrongFile, match=r"no split 'testa'; did you mean 'testA'\?"):
        open_source(f"refcoco:{file}:testa")


def test_refcoco_of_tfds_and_mdetr_become_our_lines(tmp_path):
    expected = refcoco.read(files.write_refcoco(tmp_path))
    refs, images = [], {}
    for row in expected:
        if not any(ref["ref_id"] == row.ref_id for ref in refs):
            refs.append(
                {
                    "ref_id": row.ref_id,
                    "ann_id": row.ann_id,
                    "image_id": row.image_id,
                    "split": row.split,
                    "file_name": f"COCO_train2014_{row.image_id:012d}_{row.ann_id}.jpg",
                    "sentences": [],
                    "ann": {"bbox": list(row.box)},
                }
            )
            info = {"file_name": row.image, "width": 40, "height": 30}
            images[str(row.image_id)] = {"info": info, "anns": []}
        refs[-1]["sentences"].append({"sent_id": row.id, "sent": row.text, "raw": row.text})
    tfds = files.write_json(tmp_path / "refcoco.json", {"ref": refs, "coco_anns": images})
    assert refcoco.read(tfds) == expected

    part = [row for row in expected if row.split == "testA"]
    mdetr = {
        "images": [
            {
                "file_name": row.image,
                "id": row.id,
                "original_id": row.image_id,
                "caption": row.text,
                "width": 40,
                "height": 30,
            }
            for row in part
        ],
        "annotations": [
            {"image_id": row.id, "id": 1, "original_id": row.ann_id, "bbox": box}
            for row in part
            for box in (list(row.box), [0, 0, 1, 1])  # the first one counts
        ],
    }
    file = files.write_json(tmp_path / "finetune_refcoco_testA.json", mdetr)
    found = refcoco.read(file)
    assert [r._replace(ref_id=0) for r in found] == [r._replace(ref_id=0) for r in part]

    refcoco.write(tmp_path / "again.jsonl", refcoco.read(tfds))
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "refcoco.jsonl").read_text()


def test_a_plus_in_a_files_name_joins_nothing(tmp_path):
    lines = files.write_refcoco(tmp_path)
    plus = lines.rename(tmp_path / "finetune_refcoco+_val.json")
    assert len(open_source(f"refcoco:{plus}:val")) == 2
    assert len(open_source(f"refcoco:{plus}:val+refcoco:{plus}:testA")) == 5


def test_refcoco_without_boxes_and_refers_pickles_are_refused(tmp_path):
    rows = [{"image": "1.jpg", "text": "the man", "ref_id": 3}]
    file = files.write_json(tmp_path / "refcoco+_test.json", rows)
    with pytest.raises(WrongFile, match="without boxes: X-VLM and X-FM take those from pickles"):
        open_source(f"refcoco:{file}")
    bad = json.loads(files.write_refcoco(tmp_path).read_text().splitlines()[0]) | {
        "box": [1, 2, 0, 4]
    }
    with pytest.raises(WrongFile, match=r"line 1: box \[1, 2, 0, 4\] is not x, y, width, height"):
        refcoco.read(files.write_lines(tmp_path / "bad.jsonl", [bad]))


@pytest.mark.parametrize("prefix", ["karpathy", "albef", "coco", "vqa", "nlvr2", "refcoco"])
@pytest.mark.parametrize("name", ["refs(unc).p", "data.pkl"])
def test_pickles_are_refused_whether_they_are_there_or_not(prefix, name, tmp_path):
    with pytest.raises(WrongFile, match=r"is a pickle: to read it is to run .* Give .*JSON"):
        open_source(f"{prefix}:{tmp_path}/{name}:train")


def test_coco_captions(tmp_path):
    files.write_image(tmp_path / "COCO_val2014_000000000007.jpg")
    file = files.write_coco_captions(tmp_path, {7: ["a dog", "a cat"], 9: []})
    source = open_source(f"coco:{file}")
    path = str(tmp_path / "COCO_val2014_000000000007.jpg")
    assert source[0] == {"id": 7, "text": ["a dog", "a cat"], "image": path}
    content = json.loads(file.read_text())
    content["annotations"][0]["image_id"] = 70
    files.write_json(file, content)
    with pytest.raises(
        WrongFile, match=r"annotations\[0\]: no image has the id 70; the nearest is"
    ):
        open_source(f"coco:{file}")


def coco_boxes(root, **changes):
    """instances_*.json of two images: a cup and a dog, and a crowd; nothing."""
    boxes = [[1, 2, 30.5, 4], [0, 0, 9, 9], [0, 0, 50, 50]]
    annotations = [
        {"image_id": 7, "id": k, "category_id": kind, "bbox": box, "iscrowd": int(k == 2)}
        | {"segmentation": [[1.0, 2.0]], "area": 5}
        for k, (kind, box) in enumerate(zip([47, 18, 18], boxes, strict=True))
    ]
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": 50}, {"id": 9, "file_name": "9.jpg"}],
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog"}, {"id": 47, "name": "cup"}],
    }
    return files.write_json(root / "instances_val.json", content | changes)


def test_coco_instances(tmp_path):
    files.write_image(tmp_path / "7.jpg")
    source = open_source(f"coco:{coco_boxes(tmp_path)}")
    assert source[0] == {
        "id": 7,
        "image": str(tmp_path / "7.jpg"),
        "regions": [
            {"box": [1, 2, 30.5, 4], "text": "cup"},
            {"box": [0, 0, 9, 9], "text": "dog"},
        ],
        "objects": ["cup", "dog"],
    }
    with pytest.raises(Skip, match="image is not there"):
        source[1]
    assert source.place(1) == f"{tmp_path}/instances_val.json, image 9"


def test_coco_captions_and_instances_of_the_same_images(tmp_path):
    boxes = coco_boxes(tmp_path)
    captions = files.write_coco_captions(tmp_path, {7: ["a dog"], 9: ["a cat"]})
    files.write_image(tmp_path / "COCO_val2014_000000000007.jpg")
    for spec in (f"{captions}:{boxes}", f"{captions}:instances_val.json"):
        example = open_source(f"coco:{spec}")[0]
        assert example["text"] == ["a dog"] and example["objects"] == ["cup", "dog"]
    with pytest.raises(WrongFile, match="both have captions; one of each kind can be joined"):
        open_source(f"coco:{captions}:{captions.name}")
    other = files.write_coco_captions(tmp_path, {7: ["a dog"]})
    with pytest.raises(WrongFile, match="1 of 2 are not in it, the first is 9"):
        open_source(f"coco:{boxes}:{other}")
    with pytest.raises(WrongFile, match=r"has no captions; the file captions_\*\.json has them"):
        coco.read(boxes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categories": [{"id": 18, "name": "dog"}]},
            r"annotations\[0\]: no category has the id 47",
        ),
        ({"annotations": [{"image_id": 7, "bbox": [1, 2, 3]}]}, r"bbox is \[1, 2, 3\]; x, y, wid"),
        (
            {"annotations": [{"image_id": 7, "segments_info": []}]},
            "has no 'caption'; Possible: image",
        ),
        ({"categories": {}}, "categories is no array but of type dict"),
    ],
)
def test_coco_instances_of_another_layout(tmp_path, changes, message):
    with pytest.raises(WrongFile, match=message):
        open_source(f"coco:{coco_boxes(tmp_path, **changes)}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"x\.json, line 1: no JSON: Expecting property name"),
        ('[\n{"image": "a"},\n]', r"x\.json, line 3: no JSON"),
        ("[" * 100_000, "JSON of too many levels"),
        ('{"a": 1}\n{"a": 2}', "It has one object per line: name it .jsonl"),
        ('{"imgs": []}', "is no array but of type dict"),
        ("[7]", r"the file\[0\] is 7, no object"),
        ('[{"images": "a"}]', r"row 0 has no 'caption'; .*Possible: images"),
        ('[{"image": "a", "caption": 7}]', "caption is 7; str or list is needed"),
        ('[{"image": "a", "caption": [7]}]', r"\[7\] is neither a string nor a list of strings"),
    ],
)
def test_other_contents_are_refused_with_their_place(content, message, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(WrongFile, match=message):
        open_source(f"albef:{tmp_path / 'x.json'}")


def test_missing_files_and_folders_are_named_with_the_nearest(tmp_path):
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"there is no .*trian\.json.; did you mean 'train"):
        open_source(f"albef:{tmp_path}/trian.json")
    with pytest.raises(FileNotFoundError, match="'nowhere' after the @ is no folder"):
        open_source(f"albef:{tmp_path}/train.json@nowhere")
    (tmp_path / "x.json").write_bytes(b'["caf\xe9"]')
    with pytest.raises(WrongFile, match="is not UTF-8: byte 5"):
        open_source(f"albef:{tmp_path}/x.json")


def test_an_image_path_does_not_leave_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "data").mkdir()
    images = official.Images(tmp_path / "data", tmp_path / "x.json")
    for name in ("../secret.png", "/etc/host.conf", "a/../../secret.png"):
        with pytest.raises(Skip, match="image path outside the data folder"):
            images.find(name)


def test_the_hash_of_a_source_is_that_of_a_moved_folder(tmp_path):
    hashes = set()
    for place in ("one", "two"):
        file = files.write_nlvr2(tmp_path / place)
        hashes.add(identity.of_source(open_source(f"nlvr2:{file}")))
    assert len(hashes) == 1


def test_a_stream_reads_them_and_counts_what_is_missing(tmp_path, caplog):
    from unified_fm.data.streams import batches, stream

    file = files.write_karpathy(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_000000000001.jpg").unlink()
    options = dict(size=32, patch_size=16, num_masked=0, mask_rate=0.0, max_skip=0.5)
    config = stream("image_text", f"karpathy:{file}:train", 2, **options)
    first, *_ = batches(config, tokenizer="bytes", name="pairs")
    assert first["image"].shape == (2, 32, 32, 3)
    assert "skips record 1" in caplog.text and "image is not there" in caplog.text
