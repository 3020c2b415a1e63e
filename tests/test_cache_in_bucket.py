"""What a teacher says, written into a bucket and read from there by ranges."""

import numpy as np
import pytest

from tests import fake_bucket
from unified_fm import buckets
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers.bucket_array import BucketArray
from unified_fm.teachers.cache_writer import Writer

bucket = fake_bucket.bucket
NEEDS = [("kl", 2.0)]


def write(to):
    """A cache of the best two of five classes, of 12 images."""
    logits = np.log(np.random.default_rng(0).dirichlet(np.ones(5), 12)).astype(np.float32)
    ids = np.argsort(-logits, axis=-1)[:, :2].astype(np.int32)
    found = {"ids": ids, "logits": np.take_along_axis(logits, ids, -1)}
    writer = Writer(to)
    writer.begin("image", slots=12, needs={"image": NEEDS})
    for start in (0, 8):  # the last batch is longer than what is left
        part = {name: np.resize(x[start:], (8, 2)) for name, x in found.items()}
        part["rest"] = np.zeros((8, 1), np.float32)
        writer.add("image", "image", start, part, used=np.ones(8, bool), classes=5)
    writer.finish("someone")
    return teacher_cache.open_cache(to)


def test_a_cache_in_a_bucket_is_the_one_in_a_folder(bucket, tmp_path):
    there, here = write("gs://taught/vit"), write(tmp_path / "vit")
    for slots in ([3, 4, 5, 6], [11, 0, 1, 1], []):
        one, other = (cache.rows("image", np.array(slots, int)) for cache in (there, here))
        for name in ("ids", "logits"):
            np.testing.assert_array_equal(one["image"][name], other["image"][name])
            assert one["image"][name].dtype == other["image"][name].dtype
        assert one["image"]["rests"].keys() == {"kl at T=2.0"}
    with pytest.raises(ValueError, match="gs://taught/vit exists"):
        Writer("gs://taught/vit")


def test_rows_that_follow_each_other_are_one_request(bucket):
    array = write("gs://taught/vit").arrays["image"]["image"]["ids"]
    bucket.asked.clear()
    array[np.arange(2, 9)]
    assert [what for what, _ in bucket.asked] == ["cat"]
    array[np.array([1, 2, 3, 7, 8, 0])]
    assert len(bucket.asked) == 1 + 3
    with pytest.raises(IndexError, match="has 12 rows, not row 12"):
        array[np.array([12])]


def test_a_cache_that_is_not_whole_is_none(bucket):
    write("gs://taught/vit")
    file = "gs://taught/vit/image.image.ids.npy"
    whole = buckets.read(file)
    bucket.pipe_file(file, whole[:-1])
    with pytest.raises(ValueError, match=rf"{file} has {len(whole) - 1} bytes; {len(whole)} are"):
        teacher_cache.open_cache("gs://taught/vit")
    bucket.rm("gs://taught/vit/about.json")
    with pytest.raises(ValueError, match="no teacher's cache in gs://taught/vit"):
        teacher_cache.open_cache("gs://taught/vit")


def test_an_array_of_objects_is_refused(bucket):
    head = b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    bucket.pipe_file("gs://a/b.npy", head.ljust(79) + b"\n" + bytes(8))
    with pytest.raises(ValueError, match="holds no numbers by rows"):
        BucketArray("gs://a/b.npy")
