"""What the doctor measures: boxes, copies, lengths, and what it makes of the numbers."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.doctor.bad_records import encoded, picture
from unified_fm.data import images, tokenizer
from unified_fm.data.pipelines import regions, text
from unified_fm.doctor import box_forms, duplicates, findings, pictures, summary, texts
from unified_fm.doctor.findings import Findings

BYTES = tokenizer.load("bytes")
HEIGHT, WIDTH = 300, 400


def true_boxes(count=80):
    """f[count 4]: x, y, w, h anywhere in a picture of 300 x 400, up to its edges."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.8, (count, 2)) * (WIDTH, HEIGHT)
    size = rng.uniform(0.1, 1.0, (count, 2)) * ((WIDTH, HEIGHT) - low)
    return np.concatenate([low, size], axis=1)


def written(form, boxes):
    """The same boxes as a file of this form has them."""
    x, y, w, h = boxes.T
    kinds = {
        "xywh": (x, y, w, h),
        "xyxy": (x, y, x + w, y + h),
        "cxcywh": (x + w / 2, y + h / 2, w, h),
        "yxhw": (y, x, h, w),
        "yxyx": (y, x, y + h, x + w),
        "unit": (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT),
    }
    scale, _, inner = form.rpartition(" ")
    values = np.stack(kinds[inner], axis=1)
    if scale:
        values = values / ((WIDTH, HEIGHT) * 2) * {"unit": 1, "thousandth": 1000}[scale]
    return values.tolist()


def measured(boxes, box_format="xywh"):
    pipeline = regions.Pipeline(tokenizer=BYTES, box_format=box_format)
    example = {
        "image": np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        "regions": [{"box": box, "text": "a"} for box in boxes],
    }
    found = Findings()
    box_forms.look(example, pipeline, found)
    return found


@pytest.mark.parametrize("form", box_forms.FORMS)
@pytest.mark.parametrize("declared", ["xywh", "xyxy", "unit"])
def test_row_25_the_form_of_boxes_is_guessed(form, declared):
    found = measured(written(form, true_boxes()), declared)
    assert found.table("form_fits")[form] == 80  # its own form fits them all
    said = box_forms.mistake(found, declared)
    if form == declared:
        assert said == ""
    else:
        assert said.startswith(f"the boxes look like {box_forms.FORMS[form].says}: "), said


def test_row_25_a_few_bad_boxes_are_no_other_form():
    boxes = true_boxes().tolist()
    boxes[:4] = [[5, 5, 0, 9]] * 2 + [[900, 5, 9, 9]] * 2
    found = measured(boxes)
    assert found.table("boxes")["fit"] == 76
    assert box_forms.mistake(found, "xywh") == ""


def test_row_25_corners_that_fit_as_sizes_are_pointed_at():
    low = true_boxes(60)
    small = np.concatenate([low[:, :2] / 4 + 3, low[:, :2] / 4 + 30], axis=1)  # x0, y0, x1, y1
    found = measured(small.tolist())
    assert found.table("boxes")["fit"] == 60  # as x, y, w, h too
    assert "all 60 boxes" in box_forms.undecided(found, "xywh")
    assert box_forms.undecided(measured(written("xywh", low)), "xywh") == ""


def looked_at(*encoded_images):
    found = Findings()
    for index, data in enumerate(encoded_images):
        pictures.look({"image": data}, None, index, found)
    return found


def test_copies_are_found_in_another_size_quality_and_format():
    one = picture(1, 120)
    small, png = encoded(one.resize((60, 60)), quality=60), encoded(one, "PNG")
    others = [encoded(picture(k, 120)) for k in (0, 2)]
    found = looked_at(others[0], encoded(one), small, png, others[1], encoded(one))
    contents = found.column("picture_content")
    assert duplicates.same(contents) == [[1, 5]]
    hashes, grey = found.column("picture_dhash"), found.column("picture_grey")
    assert duplicates.near(hashes, grey) == [[1, 2, 3, 5]]


def test_pictures_of_one_colour_are_no_copies():
    plain = [encoded(Image.new("RGB", (50, 50), colour)) for colour in ("red", "blue", "white")]
    found = looked_at(*plain)
    grey = found.column("picture_grey")
    assert duplicates.near(found.column("picture_dhash"), grey) == []
    assert duplicates.flat(grey) == 3


def test_the_hashes_are_the_published_ones():
    ramp = np.arange(72, dtype=np.uint8).reshape(1, 8, 9)
    assert pictures.d_hash(ramp)[0] == 2**64 - 1  # each place is darker than its right neighbour
    assert pictures.d_hash(ramp[:, :, ::-1])[0] == 0
    half = np.repeat([0, 200], 32).astype(np.uint8)[None]
    assert pictures.a_hash(half)[0] == 2**32 - 1


def test_crowded_hashes_are_compared_too():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (4000, 64), dtype=np.uint8)
    hashes = np.arange(4000, dtype=np.uint64) << np.uint64(16)  # one band is the same in all
    grey[3999] = grey[17]
    hashes[3999] = hashes[17]
    assert duplicates.near(hashes, grey) == [[17, 3999]]


def test_what_max_len_and_max_words_cut_is_counted():
    pipeline = text.Pipeline(tokenizer=BYTES, max_len=8, clean="caption", max_words=3)
    found = Findings()
    for index, said in enumerate(["ab cd", "ab cd ef gh ij", "abcdefghijkl", " ", None]):
        texts.look({"text": said}, pipeline, BYTES, index, found)
    assert found.table("texts") == {"all": 3, "cut by max_words": 1, "cut by max_len": 2}
    assert found.table("words")["all"] == 2 + 5 + 1
    assert found.table("words")["cut by max_words"] == 2  # gh ij
    # Bytes with cls and sep: 7; 10, of which 8 stay; 14.
    assert found.table("tokens") == {"7": 1, "10": 1, "14": 1}
    assert found.table("tokens_sum") == {"all": 31, "cut by max_len": 2 + 6}
    made = summary._other_lengths(found.table("tokens"))
    assert made[0] == {"max_len": 10, "texts cut": 0.3333, "tokens cut": 0.129, "padding": 0.1}
    assert made[-1] == {"max_len": 14, "texts cut": 0.0, "tokens cut": 0.0, "padding": 0.2619}


def test_the_longest_text_costs_no_more_than_a_long_one():
    pipeline = text.Pipeline(tokenizer=BYTES, max_len=128)
    found = Findings()
    texts.look({"text": "word " * 300_000}, pipeline, BYTES, 0, found)
    assert found.table("words")["all"] == 300_000
    assert found.table("words")["cut by max_len"] == pytest.approx(300_000, rel=0.001)
    assert found.table("tokens") == {"4096": 1}


def test_findings_outlive_their_process(tmp_path):
    found = Findings()
    found.add("skipped", "no text", 2)
    found.name("no text", {"record": 1, "detail": "half a character \ud800"})
    found.measure("size", np.array([3, 4], np.int32))
    findings.save(tmp_path / "x.npz", found, {"done": 2})
    again, about = findings.load(tmp_path / "x.npz")
    assert about == {"done": 2} and again.counts == found.counts and again.named == found.named
    later = Findings()
    later.measure("size", np.array([5, 6], np.int32))
    again.join(later)
    assert again.column("size").tolist() == [[3, 4], [5, 6]]


def test_a_picture_that_is_given_as_pixels_is_measured():
    found = Findings()
    pixels = np.asarray(picture(3))
    pictures.look({"images": [pixels, pixels]}, None, 0, found)
    assert found.table("format") == {"array": 2}
    assert found.column("size").tolist() == [[40, 40], [40, 40]]
    with io.BytesIO(encoded(picture(3))) as file:
        assert images.Picture(file.getvalue()).format == "JPEG"
