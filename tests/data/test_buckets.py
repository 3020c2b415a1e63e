"""Every source gives from a bucket what it gives from a folder; what must be local says so."""

import json

import fsspec
import numpy as np
import pytest

from tests import fake_bucket
from tests.data import tar_files, test_own_files
from tests.data.prepare import test_convert
from tests.tasks import official_files
from unified_fm import buckets
from unified_fm.data import images, shards
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source

own, bucket = test_own_files.own, fake_bucket.bucket
FORMS = ["jsonl", "csv", "tsv", "parquet", "webdataset", "folder", "coco"]


def examples(source):
    """All examples, with the bytes of their images in place of paths; None for a skipped one."""
    found = []
    for k in range(len(source)):
        try:
            example = source[k]
        except Skip:
            found.append(None)
            continue
        if isinstance(example.get("image"), str):
            example["image"] = images.read(example["image"])
        if "images" in example:
            example["images"] = [images.read(path) for path in example["images"]]
        found.append(example)
    assert any(found)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_bucket_gives_what_the_folder_gives(own, bucket, tmp_path, form):
    bucket.upload_folder(tmp_path, "gs://data/own")
    here = own[form]
    there = open_source(here.replace(str(tmp_path), "gs://data/own"))
    assert examples(there) == examples(open_source(here))
    assert there.place(0).startswith("gs://data/own/") or not there.place(0)


def test_published_layouts_in_a_bucket(bucket, tmp_path):
    specs = test_convert.official_sources(tmp_path)
    row = {"image": "1.jpg", "caption": ["a cup"], "image_id": 3}
    official_files.write_json(tmp_path / "albef.json", [row])
    specs |= {
        "albef": f"albef:{tmp_path}/albef.json@{tmp_path}/vg/VG_100K",
        "folder": f"folder:{official_files.write_classes(tmp_path / 'set' / 'train')}",
    }
    bucket.upload_folder(tmp_path, "gs://data/own")
    for form, here in specs.items():
        there = open_source(here.replace(str(tmp_path), "gs://data/own"))
        assert examples(there) == examples(open_source(here)), form
        assert list(there.class_names) == list(open_source(here).class_names)


def test_a_bucket_may_be_the_folder_itself(bucket):
    for name in ("cat/1.jpg", "dog/2.jpg"):
        bucket.pipe_file(f"gs://pets/{name}", b"jpeg")
    source = open_source("folder:gs://pets")
    assert list(source.class_names) == ["cat", "dog"]
    assert source[1] == {"image": "gs://pets/dog/2.jpg", "id": "dog/2.jpg", "label": 1}


def test_a_record_names_no_bucket(bucket, tmp_path):
    """What stands in a record is a path below its folder, and nothing else."""
    lines = ["gs://other/1.jpg", "x://../../../etc/passwd.jpg", "/etc/passwd.jpg"]
    text = "\n".join(json.dumps({"image": line}) for line in lines)
    (tmp_path / "a.jsonl").write_text(text)
    bucket.pipe_file("gs://own/a.jsonl", text.encode())
    bucket.pipe_file("gs://other/1.jpg", b"jpeg")
    for place in (tmp_path, "gs://own"):
        source = open_source(f"jsonl:{place}/a.jsonl")
        for k in range(3):
            with pytest.raises(Skip):
                images.read(source[k]["image"])


@pytest.mark.parametrize("by", ["line", "paragraph", "file"])
def test_documents_of_a_bucket(bucket, tmp_path, by):
    (tmp_path / "wiki" / "more").mkdir(parents=True)
    (tmp_path / "wiki" / "a.txt").write_text("\ufeffone\ntwo\n\n\nthree and more of it\n")
    (tmp_path / "wiki" / "more" / "b.txt").write_text("four")
    bucket.upload_folder(tmp_path / "wiki", "s3://books/wiki")
    here = open_source(f"text:{tmp_path}/wiki?by={by}")
    assert examples(open_source(f"text:s3://books/wiki?by={by}")) == examples(here)


def test_images_elsewhere_and_none_outside(bucket):
    bucket.pipe_file("gs://a/pairs.jsonl", b'{"image": "1.jpg"}\n{"image": "../secret.jpg"}\n')
    bucket.pipe_file("gs://b/photos/1.jpg", b"jpeg")
    source = open_source("jsonl:gs://a/pairs.jsonl@gs://b/photos")
    assert source[0]["image"] == "gs://b/photos/1.jpg"
    with pytest.raises(Skip, match="outside the data folder"):
        source[1]
    with pytest.raises(Skip, match="missing image"):
        images.read("gs://b/photos/2.jpg")


def test_a_table_is_read_and_its_classes(bucket):
    bucket.pipe_file("gs://a/pets.csv", b'image,breed\n1.jpg,cat\n2.jpg,"a ""dog""\nof two"\n')
    bucket.pipe_file("gs://a/breeds.txt", b'cat\ndog\n"a ""dog"" of two"\n')
    source = open_source("csv:gs://a/pets.csv?label=breed&classes=gs://a/breeds.txt")
    assert source[0]["label"] == 0
    assert source.place(1) == "gs://a/pets.csv, line 3"
    # Quotes within a cell: this file is read cell by cell.
    bucket.pipe_file("gs://a/odd.csv", b'image,text\n1.jpg,6" of snow\n2.jpg,"two\nlines"\n')
    texts = [example["text"] for example in examples_of_text("csv:gs://a/odd.csv")]
    assert texts == ['6" of snow', "two\nlines"]


def examples_of_text(spec):
    source = open_source(spec)
    return [source[k] for k in range(len(source))]


def test_many_shards_are_found_by_one_listing_and_indexed_once(bucket, tmp_path):
    for k in range(30):
        tar = tar_files.write_shard(tmp_path / f"{k:05d}.tar", k, 2)
        bucket.pipe_file(f"gs://web/cc3m/{k:05d}.tar", tar.read_bytes())
    spec = "webdataset:gs://web/cc3m/{00000..00029}.tar"
    assert len(open_source(spec)) == 60
    bucket.asked.clear()
    assert len(open_source(spec)) == 60
    kinds = [what for what, _ in bucket.asked]
    assert kinds.count("ls") == 1 and len(kinds) < 6 and "cat" not in kinds
    with pytest.raises(FileNotFoundError, match="2 of 32 files are not there: gs://web/cc3m/00030"):
        open_source("webdataset:gs://web/cc3m/{00000..00031}.tar")


def test_an_index_may_lie_in_a_bucket_itself(bucket, tmp_path):
    tar = tar_files.write_shard(tmp_path / "a.tar", 0, 1)
    bucket.pipe_file("gs://web/a.tar", tar.read_bytes())
    assert len(open_source("webdataset:gs://web/*.tar?index=gs://own/indices")) == 1
    assert any(name.endswith("/a.tar.index") for name in bucket.find("gs://own/indices"))


def test_the_lines_of_a_file_are_looked_for_once(bucket):
    bucket.pipe_file("gs://a/a.jsonl", b'{"text": "one"}\n\n{"text": "two"}\n')
    before = examples_of_text("jsonl:gs://a/a.jsonl")
    bucket.asked.clear()
    assert examples_of_text("jsonl:gs://a/a.jsonl") == before
    assert "open" not in [what for what, _ in bucket.asked]
    bucket.pipe_file("gs://a/a.jsonl", b'{"text": "three"}\n')
    assert [each["text"] for each in examples_of_text("jsonl:gs://a/a.jsonl")] == ["three"]


def test_a_file_that_is_replaced_between_runs_is_read_anew(bucket):
    bucket.pipe_file("gs://a/a.jsonl", b'{"text": "one"}\n')
    assert len(open_source("jsonl:gs://a/*.jsonl")) == 1  # its size is known from now on
    bucket.pipe_file("gs://a/a.jsonl", b'{"text": "two"}\n{"text": "three"}\n')
    assert len(examples_of_text("jsonl:gs://a/a.jsonl")) == 2


def test_a_file_that_changes_under_a_run_ends_it(bucket):
    bucket.pipe_file("gs://a/a.jsonl", b'{"text": "one"}\n')
    source = open_source("jsonl:gs://a/a.jsonl")
    bucket.pipe_file("gs://a/a.jsonl", b'{"text": "two"}\n')
    with pytest.raises(shards.ChangedShard, match=r"gs://a/a\.jsonl was replaced"):
        source[0]


def test_what_is_not_there_is_said_with_the_nearest_name(bucket):
    bucket.pipe_file("gs://a/pairs.jsonl", b"{}")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'pairs\.jsonl'"):
        open_source("jsonl:gs://a/paris.jsonl")
    with pytest.raises(FileNotFoundError, match="nor the folder gs://b"):
        open_source("coco:gs://b/captions.json")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_source("folder:gs://a/photos")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf:gs://a/pets:train", r"mapped into memory.*gcloud storage cp -r gs://a/pets:train DIR"),
        (
            "array_record:s3://a/x",
            r"local files and gs:// only.*aws s3 cp --recursive s3://a/x DIR",
        ),
        ("tfds:mnist:train:gs://a", r"local files only, not gs://a"),
        ("jsonl:az://a/b", r"the protocol az:// is not one of gs://, s3://"),
    ],
)
def test_what_must_be_local_says_so(bucket, spec, said):
    with pytest.raises(ValueError, match=said):
        open_source(spec)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    def missing(protocol, **options):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    for path, extra in (("gs://a/b.jsonl", "gcs"), ("s3://a/b.jsonl", "s3")):
        with pytest.raises(ModuleNotFoundError, match=rf'pip install "unified_fm\[{extra}\]"'):
            open_source(f"jsonl:{path}")


def test_a_bucket_that_does_not_answer_is_no_missing_file(bucket, monkeypatch):
    def refused(self, path, **options):
        raise RuntimeError("401, anonymous caller")

    monkeypatch.setattr(fake_bucket.Memory, "info", refused)
    with pytest.raises(OSError, match=r"gs://a/b\.jsonl: RuntimeError: 401") as found:
        open_source("jsonl:gs://a/b.jsonl")
    assert not isinstance(found.value, FileNotFoundError)


def test_a_tokenizer_of_several_files_and_what_it_lacks(bucket, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Cat", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    bucket.upload_folder(tmp_path, "gs://models/bert")
    there = tokenizers.load("gs://models/bert")
    assert there.text() == tokenizers.load(tmp_path).text()
    assert there.encode("CAT", 3).ids[1] == words.index("cat")
    assert tokenizers.load("gs://models/bert/vocab.txt").text() == there.text()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in gs://models: looked for"):
        tokenizers.load("gs://models")
    with pytest.raises(FileNotFoundError, match=r"gs://models/bart; did you mean 'bert'"):
        tokenizers.load("gs://models/bart")
    bucket.pipe_file("gs://models/roberta/vocab.json", b"{}")
    with pytest.raises(FileNotFoundError, match=r"gs://models/roberta/vocab\.json needs merges"):
        tokenizers.load("gs://models/roberta")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gs://b/x.json", ("gs://b/x.json", "")),
        ("gs://b/x.json:train", ("gs://b/x.json", "train")),
        ("gs://b/a.json:gs://b/b.json", ("gs://b/a.json", "gs://b/b.json")),
        ("a.json:gs://b/b.json", ("a.json", "gs://b/b.json")),
        ("a.json", ("a.json", "")),
    ],
)
def test_a_colon_of_a_protocol_parts_nothing(text, parts):
    assert buckets.cut(text) == parts


def test_reading_behind_the_end_is_short(bucket):
    bucket.pipe_file("gs://a/b", b"0123456789")
    assert [buckets.read("gs://a/b", *span) for span in [(8, 12), (3, 3), (0, None)]] == [
        b"89",
        b"",
        b"0123456789",
    ]
    np.testing.assert_array_equal(buckets.about("gs://a/b").size, 10)
