"""What may be given: all forms of one image are the same, and what is at fault is named."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.inference import runs
from unified_fm.data.pipelines import base as pipelines
from unified_fm.data.skips import Skip
from unified_fm.inference import items
from unified_fm.inference.items import BadItem, Items, kind_of, listed, paired
from unified_fm.inference.preprocessing import Preprocessing

RED = runs.picture("red")


def make_reading():
    options = {"size": 16, "patch_size": 8, "num_masked": 0, "augment": "none"}
    image = pipelines.make(pipelines.load("image"), options, what="test")
    return Preprocessing(image, None, None)


def encoded(image, form, **more):
    out = io.BytesIO()
    image.save(out, form, **more)
    return out.getvalue()


def turned(image: Image.Image) -> Image.Image:
    """Stored lying, with an EXIF tag that says so."""
    lying = image.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6  # a viewer turns it by 90 degrees clockwise
    return lying


def test_an_image_is_the_same_in_every_form(tmp_path):
    reading, image = make_reading(), Image.fromarray(RED)
    image.save(tmp_path / "red.png")
    forms = [
        RED,
        image,
        runs.png(RED),
        str(tmp_path / "red.png"),
        tmp_path / "red.png",
        np.dstack([RED, np.full(RED.shape[:2], 255, np.uint8)]),
        turned(image),
        encoded(turned(image), "PNG", exif=turned(image).getexif()),
    ]
    found = [reading.resized(form) for form in forms]
    for each in found:
        np.testing.assert_array_equal(each, found[0])
    assert found[0].shape == (16, 16, 3)
    sizes = {(p.height, p.width) for p in map(reading.picture, forms)}
    assert sizes == {RED.shape[:2]}  # upright, whatever is stored


def test_transparency_lies_over_white_and_16_bit_is_scaled():
    reading = make_reading()
    clear = Image.fromarray(np.dstack([RED, np.zeros(RED.shape[:2], np.uint8)]), "RGBA")
    assert (reading.resized(clear) == 255).all()
    deep = Image.fromarray(np.full((20, 30), 128 * 256, np.uint16))
    assert (reading.resized(deep) == 128).all()
    grey = np.full((20, 30, 1), 128, np.uint8)
    assert (reading.resized(grey) == 128).all()


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (RED / 255, "float64; uint8"),
        (np.zeros((4, 4, 2), np.uint8), "wrong shape"),
        (b"no image", "not an image"),
        ("missing.png", "missing image"),
        (3, "int; a path, bytes"),
        (Image.new("F", (4, 4)), "floating-point"),
    ],
)
def test_what_is_no_image_is_named_with_its_index(item, words):
    given = Items("images", [RED, item], False)
    with pytest.raises(BadItem, match=r"images\[1\].*" + words) as caught:
        given.each(make_reading().resized, "raise")
    assert caught.value.index == 1
    found = given.each(make_reading().resized, "skip")
    assert found[1] is None and found[0].shape == (16, 16, 3)


def test_one_item_a_list_and_a_batch_of_arrays():
    assert listed("a", "texts") == Items("texts", ["a"], True)
    assert listed(("a", "b"), "texts") == Items("texts", ["a", "b"], False)
    assert listed(pathlib.Path("a"), "images").single
    assert len(listed(np.zeros((3, 4, 4, 3), np.uint8), "images").values) == 3
    with pytest.raises(TypeError, match="images: int is neither an item nor a list"):
        listed(3, "images")


def test_numbers_must_fit():
    def numbers(a, b):
        return paired(Items("images", [0] * a, False), Items("texts", [0] * b, False))

    assert numbers(2, 2) == [(0, 0), (1, 1)]
    assert numbers(1, 3) == [(0, 0), (0, 1), (0, 2)]
    assert numbers(3, 1) == [(0, 0), (1, 0), (2, 0)]
    assert numbers(1, 0) == numbers(0, 1) == []
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        numbers(2, 3)


def test_a_str_is_an_image_by_its_ending():
    assert kind_of(listed(["a pear", "a cat.jpg is here"], "queries")) == items.TEXTS
    assert kind_of(listed(["a.JPG", "b.avif", RED, pathlib.Path("b")], "queries")) == items.IMAGES
    with pytest.raises(ValueError, match="queries are images as well as texts"):
        kind_of(listed(["a pear", RED], "queries"))


def test_results_of_nothing_of_one_and_of_what_was_skipped():
    row = np.ones(3, np.float32)
    assert items.results([], Items("x", [], False), "raise", (3,)).shape == (0, 3)
    assert items.results([row], Items("x", [0], True), "raise").shape == (3,)
    assert items.results([row, None], Items("x", [0, 0], False), "skip")[1] is None
    assert items.results([np.float32(0.5)], Items("x", [0], True), "raise") == 0.5
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        items.check_on_error("ignore")


def test_a_skip_without_detail_is_a_sentence():
    def refuse(item):
        raise Skip("empty text")

    with pytest.raises(BadItem, match=r"texts\[0\] \(' '\): empty text$"):
        Items("texts", [" "], True).one(refuse, 0, "raise")
