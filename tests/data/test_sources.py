"""Sources: every format read back, and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from unified_fm.data import records, source
from unified_fm.data.skips import Skip


def png(value):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def test_records_keep_every_kind_of_value():
    example = {
        "text": ["a", "naïve \ud800"],
        "image": b"\0\1",
        "regions": [{"box": [1, 2.5, 3, 4], "text": "x"}],
        "values": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": None,
        "label": np.int64(3),
    }
    back = records.decode(records.encode(example))
    assert back["values"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["values"].dtype == np.float32
    del back["values"], example["values"]
    assert back == example
    with pytest.raises(TypeError, match=r"example\['a'\]\[1\] is of type set"):
        records.encode({"a": [1, {2}]})


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:12],
        lambda raw: b"",
        lambda raw: b"UFMR2" + raw[5:],
        lambda raw: raw.replace(b"[2,", b"[9,").replace(b"[2]", b"[9]"),
        lambda raw: raw.replace(b"int32", b"int99"),
        lambda raw: b"UFMR1\n\xff\xff\xff\x7f" + raw[10:],
    ],
)
def test_damaged_records_are_refused(damage):
    raw = records.encode({"a": np.array([1, 2], np.int32), "b": b"12345"})
    with pytest.raises(records.CorruptRecord):
        records.decode(damage(raw))


def test_shards_are_written_whole_and_replaced(tmp_path):
    stem = tmp_path / "corpus" / "train"
    records.write_shards(stem, ({"id": k} for k in range(10)), per_shard=4)
    names = [f"train-0000{k}-of-00003.array_record" for k in range(3)]
    assert sorted(p.name for p in stem.parent.iterdir()) == names
    read = source.open_source(f"array_record:{stem}")
    assert [read[k]["id"] for k in range(len(read))] == list(range(10))

    records.write_shards(stem, [{"id": 7}])
    assert [p.name for p in stem.parent.iterdir()] == ["train-00000-of-00001.array_record"]

    def broken():
        yield {"id": 1}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        records.write_shards(stem, broken())
    assert [p.name for p in stem.parent.iterdir()] == ["train-00000-of-00001.array_record"]


@pytest.fixture
def shards(tmp_path):
    """Three shards of four records with 3,000 random bytes each."""
    rng = np.random.default_rng(0)
    examples = [{"id": k, "image": rng.bytes(3000)} for k in range(12)]
    return examples, records.write_shards(tmp_path / "s", examples, per_shard=4)


def test_row_17_a_truncated_shard_is_left_out_and_named(shards):
    examples, paths = shards
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    read = source.open_source(f"array_record:{paths[0].parent / 's'}")
    ((reason, file),) = read.problems
    assert reason == "unreadable shard"
    assert file.startswith(f"{paths[1]}: ArrayRecord file should be at least 64KB")
    assert read.lost == 4  # as many as in each of the others
    assert [read[k] for k in range(len(read))] == examples[:4] + examples[8:]


@pytest.mark.parametrize("pattern", ["s", "s-*"])
def test_row_17_a_missing_shard_is_refused_by_name_unless_allowed(shards, pattern):
    _, paths = shards
    paths[2].unlink()
    spec = f"array_record:{paths[0].parent}/{pattern}"
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards .*.*s-00002.*\?missing=allow"):
        source.open_source(spec)
    read = source.open_source(f"{spec}?missing=allow")
    assert read.problems == [("missing shard", str(paths[2]))]
    assert len(read) == 8


def test_row_17_a_flipped_byte_costs_one_record(shards):
    examples, paths = shards
    raw = bytearray(paths[0].read_bytes())
    raw[raw.find(examples[2]["image"][:16]) + 100] ^= 1
    paths[0].write_bytes(raw)
    read = source.open_source(f"array_record:{paths[0].parent / 's'}")
    with pytest.raises(Skip, match="damaged record"):
        read[2]
    assert [read[k] for k in (0, 1, 3, 4)] == [examples[k] for k in (0, 1, 3, 4)]


def test_row_17_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "x.array_record").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="none of 1 shards can be read"):
        source.open_source(f"array_record:{tmp_path}/x.array_record")
    with pytest.raises(FileNotFoundError, match="no shard matches"):
        source.open_source(f"array_record:{tmp_path}/y")


def write_lines(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))


def test_jsonl_reads_our_fields_and_the_published_ones(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(png(1))
    region = {"box": [1, 2, 3, 4], "text": "x", "attributes": ["red"]}
    write_lines(
        tmp_path / "data.jsonl",
        {"image": "pictures/1.png", "text": "one", "label": 4, "id": "a"},
        "",
        {"binary": base64.b64encode(png(2)).decode(), "desc": {"de": "zwei", "en": "two"}},
        {"elems": [{"bb": [1, 2, 3, 4], "caption": "x", "attributes": ["red"]}], "caption": "c"},
        "   ",
        {"desc": ["three", "drei"], "regions": [region], "image_id": 77},
    )
    read = source.open_source(f"jsonl:{tmp_path / 'data.jsonl'}")
    assert len(read) == 4
    assert read[0] == {
        "image": str(tmp_path / "pictures" / "1.png"),
        "text": "one",
        "label": 4,
        "id": "a",
    }
    assert read[1] == {"image": png(2), "text": ["two"], "id": 1}
    assert read[2] == {"regions": [region], "text": "c", "id": 2}
    assert read[3] == {"regions": [region], "text": ["three", "drei"], "id": 77}


def test_jsonl_folders_and_another_root(tmp_path):
    for name in ("a", "b"):
        write_lines(tmp_path / f"{name}.jsonl", {"image": "x.png", "text": name})
    (tmp_path / "elsewhere").mkdir()
    assert len(source.open_source(f"jsonl:{tmp_path}")) == 2
    read = source.open_source(f"jsonl:{tmp_path}/b.jsonl@{tmp_path}/elsewhere")
    assert read[0]["image"] == str(tmp_path / "elsewhere" / "x.png")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"image": "../secret.png"}, "image path outside the data folder"),
        ({"image": "/etc/host.conf"}, "image path outside the data folder"),
        ({"image": "a/../../b.png"}, "image path outside the data folder"),
        ({"image": "!!!"}, "image is neither a file nor base64"),
        ({"image": 7}, "image of a wrong type"),
        ('{"text": "cut', "invalid JSON"),
        ("[1, 2]", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
    ],
)
def test_jsonl_lines_that_cannot_be_used(tmp_path, line, reason):
    write_lines(tmp_path / "x.jsonl", {"text": "good"}, line)
    read = source.open_source(f"jsonl:{tmp_path / 'x.jsonl'}")
    assert read[0]["text"] == "good"
    with pytest.raises(Skip) as caught:
        read[1]
    assert caught.value.reason == reason


def test_row_24_invalid_utf8_in_a_line(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "caf\xe9 \xff"}\n')
    assert source.open_source(f"jsonl:{tmp_path / 'x.jsonl'}")[0]["text"] == "caf\ufffd \ufffd"


def test_folder_of_classes(tmp_path):
    for name in ("dog/2.png", "cat/1.png", "dog/deeper/3.png", "cat/.hidden.png", "cat/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(0))
    read = source.open_source(f"folder:{tmp_path}")
    assert read.class_names == ["cat", "dog"]
    assert [(read[k]["id"], read[k]["label"]) for k in range(len(read))] == [
        ("cat/1.png", 0),
        ("dog/2.png", 1),
        ("dog/deeper/3.png", 1),
    ]


def test_folder_of_captions(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(0))
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    read = source.open_source(f"folder:{tmp_path}")
    assert read[0]["text"] == ["one", "two"]
    assert "text" not in read[1] and "label" not in read[1]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        source.open_source(f"folder:{tmp_path}/none")


def test_train_and_val_are_splits_of_a_folder(tmp_path):
    for name in ("train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/fox/4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(0))
    read = source.open_source(f"folder:{tmp_path}:val")
    assert read.class_names == ["cat", "dog", "fox"]  # of all splits, so that they agree
    assert [read[k] for k in range(len(read))] == [
        {"id": "val/dog/3.png", "image": f"{tmp_path}/val/dog/3.png", "label": 1}
    ]
    below = source.open_source(f"folder:{tmp_path}/val")
    assert (below.class_names, below[0]["id"]) == (["cat", "dog", "fox"], "dog/3.png")
    with pytest.raises(ValueError, match=r"test, train, val are splits, not classes; .*:train or "):
        source.open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="no split 'trian'; did you mean 'train'"):
        source.open_source(f"folder:{tmp_path}:trian")
    (tmp_path / "more" / "x").mkdir(parents=True)
    (tmp_path / "more" / "x" / "1.png").write_bytes(png(0))
    read = source.open_source(f"folder:{tmp_path}")  # another folder: these are classes
    assert read.class_names == ["more", "test", "train", "val"]


def test_a_folder_without_folders_has_no_splits(tmp_path):
    for name in ("1.jpg", "1.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a split is a folder, and there is none in .*without it"):
        source.open_source(f"folder:{tmp_path}:train")


def test_splits_of_captioned_images(tmp_path):
    for name in ("train/1", "val/2"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.png").write_bytes(png(0))
        (tmp_path / f"{name}.txt").write_text(f"of {name}")
    read = source.open_source(f"folder:{tmp_path}:train")
    assert [read[k]["text"] for k in range(len(read))] == [["of train/1"]]
    assert read.class_names == []


def test_synthetic_examples_depend_on_the_index_only():
    for kind in ("text", "image", "pairs", "regions"):
        first, again = (source.open_source(f"synthetic:{kind}:9") for _ in range(2))
        assert len(first) == 9
        assert repr(first[3]) == repr(again[3]) != repr(first[4])
    example = source.open_source("synthetic:regions")[0]
    x, y, w, h = example["regions"][-1]["box"]  # the last shape lies on top
    assert len(np.unique(example["image"][y : y + h, x : x + w].reshape(-1, 3), axis=0)) >= 1
    with pytest.raises(ValueError, match="did you mean 'pairs'"):
        source.open_source("synthetic:pair")


class TinyBoxes(tfds.core.GeneratorBasedBuilder):
    """Three pictures with captions, labels and boxes."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # else TFDS looks for a file of checksums beside this test

    def _info(self):
        names = tfds.features.ClassLabel(names=["hat", "shoe"])
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
            "question": tfds.features.Text(),
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "objects": tfds.features.Sequence(
                {"bbox": tfds.features.BBoxFeature(), "label": names}
            ),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        box = tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=0.6)
        for k in range(3):
            yield (
                k,
                {
                    "image": io.BytesIO(png(k)),
                    "label": k % 2,
                    "captions": [{"text": f"number {k}"}, {"text": "naïve"}],
                    "question": "what?",
                    "answers": ["one", "naïve"],
                    "objects": [{"bbox": box, "label": 1}],
                },
            )


def test_tfds_without_tensorflow(tmp_path):
    TinyBoxes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    folder = tmp_path / "tiny_boxes" / "1.0.0"
    read = source.open_source(f"tfds:{folder}:train")
    assert len(read) == 3
    assert read.class_names == ["cat", "dog"]
    found = {read[k]["text"][0]: read[k] for k in range(3)}
    assert sorted(found) == ["number 0", "number 1", "number 2"]
    example = found["number 1"]
    assert example["image"] == png(1)  # still encoded
    assert example["label"] == 1
    assert example["text"][1] == "naïve"
    assert (example["question"], example["answers"]) == ("what?", ["one", "naïve"])
    assert set(example) == {"id", "image", "label", "text", "regions", "question", "answers"}
    assert example["regions"][0]["text"] == "shoe"
    np.testing.assert_allclose(example["regions"][0]["box"], [6, 2, 12, 8], rtol=1e-6)
    assert len(source.open_source(f"tfds:{folder}:train[:1]+train[2:]")) == 2
    with pytest.raises(FileNotFoundError, match="Unknown split 'test'"):
        source.open_source(f"tfds:{folder}:test")
    with pytest.raises(ValueError, match="not tfds:NAME/CONFIG:SPLIT"):
        source.open_source(f"tfds:{folder}")


def test_source_strings():
    joined = source.open_source("synthetic:text:3+synthetic:text:4")
    assert len(joined) == 7
    assert joined[3]["text"] == joined[0]["text"]
    assert [joined[k]["id"] for k in (2, 3)] == ["0/2", "1/0"]
    assert len(source.open_source(["synthetic:text:3", "synthetic:text:1+synthetic:text:1"])) == 5
    with pytest.raises(ValueError, match="did you mean 'jsonl'"):
        source.open_source("json:x")
    with pytest.raises(ValueError, match=r"not of the form .* possible: .*folder:\.\.\."):
        source.open_source("data.jsonl")


def test_classes_of_joined_sources_are_told_by_their_names(tmp_path, caplog):
    folders = {"a": ("cat", "dog"), "b": ("ant", "dog", "eel"), "c": ("cat", "dog")}
    for folder, names in folders.items():
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "1.jpg").write_bytes(b"")
    write_lines(tmp_path / "x.jsonl", {"image": "1.jpg", "text": "no class"})
    alike = source.open_source([f"folder:{tmp_path}/{name}" for name in "ac"])
    assert list(alike.class_names) == ["cat", "dog"]
    assert [alike[k]["label"] for k in range(4)] == [0, 1, 0, 1] and not caplog.messages
    joined = source.open_source(f"folder:{tmp_path}/a+jsonl:{tmp_path}/x.jsonl+folder:{tmp_path}/b")
    assert list(joined.class_names) == ["cat", "dog", "ant", "eel"]
    assert [joined[k].get("label") for k in range(6)] == [0, 1, None, 2, 1, 3]
    assert "numbered together, 4 in all: cat, dog, ant, eel" in caplog.text


def test_a_plus_in_a_file_name_does_not_split(tmp_path):
    write_lines(tmp_path / "a+b.jsonl", {"text": "x"})
    read = source.open_source(f"jsonl:{tmp_path}/a+b.jsonl+jsonl:{tmp_path}/a+b.jsonl")
    assert len(read) == 2
