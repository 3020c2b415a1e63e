"""Boxes as users write them: formats, frames, what is dropped and counted, guessed mistakes."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from unified_fm.data import boxes, images, tokenizer
from unified_fm.data.pipelines import regions
from unified_fm.data.skips import Parts, TooManySkips
from unified_fm.data.streams import Streams, stream

HEIGHT, WIDTH = 40, 60  # of the image as it is stored
MARKED = (8, 21, 33, 29)  # x0, y0, x1, y1 of the white rectangle in it


def png(orientation=1, size=(HEIGHT, WIDTH), marked=MARKED):
    pixels = np.zeros((*size, 3), np.uint8)
    x0, y0, x1, y1 = marked
    pixels[y0:y1, x0:x1] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    return out.getvalue()


def shown_rectangle(data):
    """x0, y0, x1, y1 of the white pixels, after Pillow has turned the image."""
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    rows, columns = np.nonzero(shown[..., 0])
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def written(corners, box_format, height, width):
    x0, y0, x1, y1 = (float(value) for value in corners)
    if box_format == "xyxy":
        return [x0, y0, x1, y1]
    box = [x0, y0, x1 - x0, y1 - y0]
    return np.divide(box, [width, height] * 2).tolist() if box_format == "unit" else box


def pipeline(**options):
    return regions.Pipeline(
        tokenizer=tokenizer.load("bytes"),
        size=32,
        patch_size=8,
        max_len=12,
        augment="none",
        **options,
    )


@pytest.mark.parametrize("box_format", boxes.FORMATS)
@pytest.mark.parametrize("exif", boxes.FRAMES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_A4_a_box_lies_on_what_was_marked(orientation, exif, box_format):
    data = png(orientation)
    shown = shown_rectangle(data)
    picture = images.Picture(data)
    if exif == "stored":
        box = written(MARKED, box_format, HEIGHT, WIDTH)
    else:
        box = written(shown, box_format, picture.height, picture.width)
    made = pipeline(box_format=box_format, exif=exif)(
        {"image": data, "regions": [{"box": box, "text": "white"}]}, np.random.default_rng(0)
    )
    size = np.array([picture.width, picture.height] * 2)
    cx, cy, w, h = made["rows"]["box"][0] * size
    np.testing.assert_allclose([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], shown, atol=1e-4)
    assert made["parts"].seen == 1 and not made["parts"].dropped


@pytest.mark.parametrize(
    ("box", "box_format", "problem"),
    [
        ([5, 5, 0.5, 20], "xywh", "box below one pixel"),
        ([0.1, 0.2, 0.4, 0.3], "xywh", "box below one pixel"),  # fractions taken for pixels
        ([59.5, 5, 20, 20], "xywh", "box outside its image"),
        ([59.5, 5, 1, 20], "xywh", "box below one pixel"),  # half of it sticks out
        ([5, 5, 6, 6], "xywh", ""),
        ([30, 20, 29, 39], "xyxy", "box of zero or negative size"),
        ([30, 20, 50, 41], "xyxy", ""),  # sticks out by a pixel
        ([0.5, 0.5, 0.5, 0.5], "unit", ""),
        ([0.5, 0.5, 0.6, 0.5], "unit", "box outside its image"),
        ([0.5, 0.5, 1 / 60, 1 / 40], "unit", ""),  # one pixel
        ([0.5, 0.5, 0.9 / 60, 0.5], "unit", "box below one pixel"),
    ],
)
def test_A4_what_is_no_box(box, box_format, problem):
    parsed, why = boxes.parse(box, HEIGHT, WIDTH, box_format=box_format)
    assert why == problem
    assert (parsed is None) == bool(problem)


def test_A4_a_wrong_option_names_the_nearest():
    with pytest.raises(ValueError, match="box_format is 'xyx'; did you mean 'xyxy'"):
        pipeline(box_format="xyx")
    with pytest.raises(ValueError, match="exif is 'storde'; did you mean 'stored'"):
        pipeline(exif="storde")


def drawn(count, seed=0):
    """Corners of boxes anywhere in an image of 60 x 40."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [40, 25], (count, 2))
    high = rng.uniform(low + 4, [WIDTH, HEIGHT])
    return np.concatenate([low, high], axis=1)


def write(folder, found, *, orientation=1, caption=None):
    (folder / "1.png").write_bytes(png(orientation))
    with open(folder / "data.jsonl", "w") as file:
        for some in found:
            record = {"image": "1.png", "regions": [{"box": b, "text": "x"} for b in some]}
            file.write(json.dumps(record | ({"text": caption} if caption else {})) + "\n")
    return f"jsonl:{folder}/data.jsonl"


def opened(source, **options):
    config = stream(
        "regions", source, 8, images=8, size=16, patch_size=8, max_len=8, threads=1, **options
    )
    return Streams({"boxes": config}, seed=0, tokenizer="bytes")


@pytest.mark.parametrize(
    ("is_in", "read_as", "advice"),
    [
        ("xyxy", "xywh", "these look like x0y0x1y1: set box_format='xyxy'"),
        ("unit", "xywh", "these look like fractions: box_format='unit'"),
        ("unit", "xyxy", "these look like fractions: box_format='unit'"),
        ("xywh", "xyxy", "these look like x, y, width, height: set box_format='xywh'"),
        ("xyxy", "unit", "these look like x0y0x1y1: set box_format='xyxy'"),
        ("xywh", "unit", "these look like x, y, width, height: set box_format='xywh'"),
    ],
)
@pytest.mark.parametrize("caption", [None, "a picture"])
def test_A4_a_wrong_format_stops_the_run_and_is_guessed(
    tmp_path, caplog, is_in, read_as, advice, caption
):
    found = [
        [written(corners, is_in, HEIGHT, WIDTH) for corners in drawn(4, seed)] for seed in range(60)
    ]
    source = write(tmp_path, found, caption=caption)
    streams = opened(source, box_format=read_as)
    with pytest.raises(TooManySkips) as caught:
        for _ in range(50):
            next(streams)
    assert advice in str(caught.value)
    assert f"many boxes do not fit: {advice}" in caplog.text
    streams.close()
    right = opened(source, box_format=is_in, max_skip=0.0)
    for _ in range(20):
        next(right)
    _, *reasons = right.skip_table().splitlines()
    assert "0 skipped" in right.skip_table() and all("(cut)" in reason for reason in reasons)
    right.close()


def test_A4_boxes_of_the_stored_image_are_guessed(tmp_path):
    found = [
        [written(corners, "xywh", HEIGHT, WIDTH) for corners in drawn(4, seed)]
        for seed in range(60)
    ]
    source = write(tmp_path, found, orientation=6, caption="a picture")
    streams = opened(source)
    with pytest.raises(TooManySkips, match="before EXIF turns them: set exif='stored'"):
        for _ in range(50):
            next(streams)
    streams.close()
    right = opened(source, exif="stored", max_skip=0.0)
    next(right)
    right.close()


def test_A4_a_few_bad_boxes_bring_no_advice():
    parts = Parts()
    for corners in drawn(200):
        box = written(corners, "xywh", HEIGHT, WIDTH)
        how = {"box_format": "xywh", "frame": "upright", "orientation": 1, "fits": True}
        parts.test(boxes.mistakes(box, HEIGHT, WIDTH, **how), failed=False)
    for _ in range(5):
        parts.test([], failed=True)
    assert parts.advice() == ""


def test_A4_dropped_parts_count_towards_max_skip(tmp_path, caplog):
    good, bad = [5, 5, 20, 20], [5, 5, -20, 20]
    found = [[good, good, good, bad] if k % 4 == 0 else [good] * 4 for k in range(100)]
    source = write(tmp_path, found)  # one box of sixteen
    streams = opened(source)
    with pytest.raises(TooManySkips, match=r"\d+ of \d+ parts .* more than max_skip=0\.01") as e:
        for _ in range(200):
            next(streams)
    assert "(part) box of zero or negative size" in str(e.value)
    assert f"{tmp_path}/data.jsonl, line " in str(e.value)
    assert f"image {tmp_path}/1.png" in str(e.value)
    streams.close()
    tolerant = opened(source, max_skip=0.1)
    for _ in range(40):
        next(tolerant)
    tolerant.close()
    strict = opened(source, max_skip=0.0)
    with pytest.raises(TooManySkips, match="max_skip=0 allows"):
        for _ in range(20):
            next(strict)
    strict.close()
