"""Which parts of a mixture may have a record in common, by their strings."""

import os

import pytest

from unified_fm.data import origins

TFDS = "tfds:pets/small:train"


@pytest.mark.parametrize(
    "parts",
    [
        ["jsonl:a", "jsonl:a"],
        ["jsonl:x", "jsonl:a", "jsonl:./b/../a"],
        ["folder:pets/:train", f"folder:{os.path.abspath('pets')}:train"],
        ["jsonl:gs://a/b.jsonl@img", "jsonl:gs://a/b.jsonl@./img[:10]"],
        ["jsonl:a[:10]", "jsonl:a[20%:]"],  # who knows how many there are
        ["jsonl:a[:95% by hash(id)]", "jsonl:a[95%: by hash(text)]"],
        ["jsonl:a[50:][:10]", "jsonl:a[50:][5:]"],
        ["few:5%:jsonl:a", "jsonl:a[:10%]"],
        [TFDS, f"{TFDS}[:50%]"],
        [f"{TFDS}[:50%]:data", f"{TFDS}[40%:]:./data"],
        [TFDS, f"{TFDS}[:1shard]"],
        [TFDS, f"{TFDS}[:50%][:95% by hash(id)]"],
    ],
)
def test_parts_that_may_have_a_record_in_common(parts):
    assert origins.shared(parts) == tuple(parts[-2:])


@pytest.mark.parametrize(
    "parts",
    [
        ["jsonl:a", "csv:a", "jsonl:b", "jsonl:gs://a", "jsonl:s3://a"],
        ["jsonl:a[:40%]", "jsonl:./a[60%:]", "jsonl:a[40%:60%]"],
        ["jsonl:a[:-10]", "jsonl:a[-10:]"],
        ["jsonl:a[:95% by hash(id)]", "jsonl:a[95%: by hash(id)]"],
        ["jsonl:a[50:][:10]", "jsonl:a[50:][10:]", "jsonl:a[:50]"],
        ["few:5%:jsonl:a[:50%]", "jsonl:a[50%:]"],
        [f"{TFDS}[:50%]", f"{TFDS}[50%:]", "tfds:pets/small:test"],
        [f"{TFDS}[:50%]:data", f"{TFDS}[50%:]:data", f"{TFDS}:more"],
    ],
)
def test_parts_that_have_none(parts):
    assert origins.shared(parts) is None


def test_a_file_that_is_named_like_a_slice_is_another_one(tmp_path):
    (tmp_path / "a[:5]").touch()
    assert origins.shared([f"jsonl:{tmp_path}/a", f"jsonl:{tmp_path}/a[:5]"]) is None
