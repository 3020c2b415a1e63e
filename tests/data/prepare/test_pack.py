"""What a shard holds of an example: bytes of images, boxes in their pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from unified_fm.data import images
from unified_fm.data.prepare.pack import Packing, pack
from unified_fm.data.skips import Parts, Skip


def encoded(size, kind="JPEG", **options):
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(out, kind, **options)
    return out.getvalue()


def test_bytes_stay_as_they_are_where_nothing_is_to_be_made_smaller(tmp_path):
    data = encoded((40, 30), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    example = {"id": 7, "image": str(tmp_path / "a.png"), "text": ["a", "b"], "mine": {"x": 1}}
    assert pack(example, Packing(), Parts()) == {**example, "image": data}
    assert pack(example, Packing(resize=30), Parts())["image"] == data
    assert pack({"id": 1, "text": "only"}, Packing(resize=8), Parts()) == {"id": 1, "text": "only"}


def test_the_shorter_side_becomes_what_is_asked_for_and_boxes_go_with_it():
    region = {"box": [10, 20, 40, 10], "text": "a cup", "attributes": None}
    example = {"image": encoded((100, 50)), "regions": [region]}
    packed = pack(example, Packing(resize=25), Parts())
    picture = images.Picture(packed["image"])
    assert (picture.width, picture.height) == (50, 25)
    assert packed["image"][:3] == b"\xff\xd8\xff"
    assert packed["regions"] == [{"box": [5, 10, 20, 5], "text": "a cup"}]


def test_boxes_are_written_as_our_sources_have_them():
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side: 60 wide and 40 high, shown 40 wide and 60 high
    data = encoded((60, 40), exif=turned)
    regions = [{"box": [0, 0, 30, 40], "text": "left half as stored"}]
    packing = Packing(box_format="xyxy", exif="stored")
    packed = pack({"image": data, "regions": regions}, packing, Parts())
    assert packed["image"] == data  # EXIF is still in it
    assert packed["regions"][0]["box"] == [0, 0, 40, 30]
    smaller = pack({"image": data, "regions": regions}, Packing(resize=20, exif="stored"), Parts())
    assert images.Picture(smaller["image"]).orientation == 1
    assert images.decode(smaller["image"]).shape == (30, 20, 3)
    assert smaller["regions"][0]["box"] == [0, 0, 20, 15]


def test_a_box_of_no_use_is_dropped_and_counted():
    boxes = [[0, 0, 5, 5], [90, 0, 50, 5], [0, 0, 0, 5], [1, 1, 2, 30], "no box"]
    example = {"image": encoded((100, 50)), "regions": [{"box": box} for box in boxes] + [3]}
    parts = Parts()
    packed = pack(example, Packing(resize=20), parts)
    assert [region["box"] for region in packed["regions"]] == [[0, 0, 2, 2]]
    assert parts.seen == 6
    assert parts.dropped == {
        "box outside its image": 1,
        "box of zero or negative size": 1,
        "box below one pixel": 1,
        "box is not four numbers": 1,
        "region of a wrong type": 1,
    }


def test_what_an_expression_refers_to_is_made_smaller_too():
    example = {"image": encoded((40, 30)), "box": [10, 5, 20, 10], "size": [40, 30], "text": "it"}
    packed = pack(example, Packing(resize=15), Parts())
    assert (packed["box"], packed["size"]) == ([5, 2.5, 10, 5], [20, 15])
    same = pack(example, Packing(), Parts())
    assert (same["box"], same["size"]) == (example["box"], example["size"])
    with pytest.raises(Skip, match="no usable box"):
        pack({**example, "box": [39, 5, 20, 10]}, Packing(), Parts())


def test_an_array_becomes_a_png_without_loss_and_two_images_two():
    pixels = np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8)
    packed = pack({"images": [pixels, encoded((8, 8))]}, Packing(), Parts())
    assert images.decode(packed["images"][0]).tolist() == pixels.tolist()
    assert packed["images"][0][:4] == b"\x89PNG"
    assert pack({"image": pixels}, Packing(), Parts())["image"] == packed["images"][0]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (encoded((40, 30))[:200], "truncated or damaged image"),
        (b"<html>", "not an image"),
        (b"", "empty image"),
        ("not/there.jpg", "missing image"),
        (np.zeros((3, 3)), "image array of a wrong type"),
    ],
)
def test_an_image_that_cannot_be_read_is_a_reason(image, reason):
    with pytest.raises(Skip) as found:
        pack({"image": image}, Packing(), Parts())
    assert found.value.reason == reason


@pytest.mark.parametrize("options", [{"resize": -1}, {"quality": 0}, {"box_format": "cxcywh"}])
def test_what_cannot_be_packed_with_is_refused(options):
    with pytest.raises(ValueError, match=r"resize is -1|quality is 0|box_format"):
        Packing(**options)
