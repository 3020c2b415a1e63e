"""Features on disk: what is computed, when it is computed again, and which files there are."""

import json

import numpy as np
import pytest

from tests.probing import pictures
from unified_fm.data.source import open_source
from unified_fm.probing import cache


@pytest.fixture
def source():
    return open_source("tests.probing.pictures:10")


def test_a_second_call_computes_nothing(tmp_path, source):
    encoder = pictures.Encoder()
    first = cache.Cache(tmp_path).rows("key", source, encoder)
    assert encoder.asked == 9  # record 4 is damaged
    assert (len(first), first.skipped, first.ids[:2]) == (9, 1, ["p0", "p1"])
    assert first.labels[:3] == ["blue", "green", "red"]
    assert first.numbers.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(first.features[2], pictures.COLOURS["red"])
    again = cache.Cache(tmp_path)
    second = again.rows("key", source, encoder)
    assert (encoder.asked, again.computed) == (9, 0)
    np.testing.assert_array_equal(second.features, first.features)
    assert (second.labels, second.ids, second.skipped) == (first.labels, first.ids, 1)
    cache.Cache(tmp_path).rows("another key", source, encoder)
    assert encoder.asked == 18


def test_what_was_stopped_goes_on_with_the_next_part(tmp_path, source):
    class Stopping(pictures.Encoder):
        def __call__(self, images):
            if self.asked >= 5:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        cache.Cache(tmp_path, part=4).rows("key", source, Stopping(), at_once=2)
    encoder = pictures.Encoder()
    rows = cache.Cache(tmp_path, part=4).rows("key", source, encoder, at_once=2)
    assert (encoder.asked, len(rows)) == (5, 9)  # the part of records 0 to 3 was kept
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == [
        f"{first:08d}.{ending}" for first in (0, 4, 8) for ending in ("json", "npy")
    ]


@pytest.mark.parametrize("ending", ["npy", "json"])
def test_a_damaged_part_is_computed_again(tmp_path, source, ending, caplog):
    cache.Cache(tmp_path, part=5).rows("key", source, pictures.Encoder())
    path = tmp_path / "key" / f"00000005.{ending}"
    path.write_bytes(path.read_bytes()[:-3])
    encoder = pictures.Encoder()
    rows = cache.Cache(tmp_path, part=5).rows("key", source, encoder)
    assert (encoder.asked, len(rows)) == (5, 9)
    assert "is not used, and computed again" in caplog.text


def test_pictures_that_the_encoder_refuses_and_records_without_a_class_are_skipped(tmp_path):
    class Source(pictures.Source):
        def __getitem__(self, index):
            label = {1: -1, 2: True, 3: None}.get(index, "cat")
            return {"image": index, "label": label}

    encode = lambda images: [None if i == 7 else np.ones(2) for i in images]  # noqa: E731
    rows = cache.Cache(tmp_path).rows("key", Source("8"), encode)
    assert (rows.ids, {*rows.labels}, rows.skipped) == (["0", "4", "5", "6"], {"cat"}, 4)
    with pytest.raises(ValueError, match="none of 8 records has a picture and a label"):
        cache.Cache(tmp_path).rows("none", Source("8"), lambda images: [None] * len(images))


def test_data_are_told_apart_by_files_and_by_contents(tmp_path):
    pictures.write_folder(tmp_path / "a", {"red": 2, "blue": 2})
    source = f"folder:{tmp_path / 'a'}"
    first = cache.identity(open_source(source))
    assert cache.identity(open_source(source)) == first
    (tmp_path / "a").rename(tmp_path / "moved")
    assert cache.identity(open_source(f"folder:{tmp_path / 'moved'}")) == first
    picture = tmp_path / "moved" / "red" / "001.png"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert cache.identity(open_source(f"folder:{tmp_path / 'moved'}")) != first
    found = [cache.identity(open_source(f"tests.probing.pictures:{n}")) for n in (10, 10, 11)]
    assert found[0] == found[1] != found[2]


def test_keys_tell_checkpoint_transform_and_data_apart():
    facts = {"checkpoint": "a", "transform": {"size": 224}, "data": "x"}
    others = [{"checkpoint": "b"}, {"transform": {"size": 384}}, {"data": "y"}]
    keys = [cache.key_of(facts | other) for other in ({}, *others)]
    assert len({*keys}) == 4 and cache.key_of(json.loads(json.dumps(facts))) == keys[0]
