"""JPEG by its first rows: the same pixels as of the whole, and the same refusals."""

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from unified_fm.data import images, jpeg
from unified_fm.data.pipelines import image
from unified_fm.data.skips import Skip

rng = np.random.default_rng(0)
PICTURE = cv2.GaussianBlur(rng.integers(0, 256, (203, 150, 3), dtype=np.uint8), (5, 5), 0)
SEQUENTIAL = [
    *({"subsampling": kind} for kind in (0, 1, 2)),
    {"quality": 30, "optimize": True},
    {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
]
WHOLE = [{"progressive": True}, {"restart_marker_rows": 2}, {"restart_marker_blocks": 3}]


def encoded(options, picture=PICTURE):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """[bytes of the header's height that were decoded], one for each call of simplejpeg."""
    heights, decode = [], simplejpeg.decode_jpeg

    def counted(data, *args, **kwargs):
        heights.append(simplejpeg.decode_jpeg_header(data)[0])
        return decode(data, *args, **kwargs)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    return heights


@pytest.mark.parametrize("options", SEQUENTIAL)
def test_the_first_rows_are_those_of_the_whole_picture(options, decoded):
    data = encoded(options)
    header = jpeg.read_header(data)
    whole = simplejpeg.decode_jpeg(data, "RGB")
    assert (header.height, header.width, header.unit in (8, 16)) == (203, 150, True)
    decoded.clear()
    for rows in range(1, 203):
        found = jpeg.decode_rows(data, header, rows)
        np.testing.assert_array_equal(found[:rows], whole[:rows])
    assert len(decoded) == 202  # none was decoded a second time
    assert decoded[:3] == [header.unit] * 3 and decoded[-1] == 203
    assert sum(height < 203 for height in decoded) > 170


@pytest.mark.parametrize("options", WHOLE)
def test_where_the_first_rows_cannot_be_told_apart_all_are_decoded(options, decoded):
    data = encoded(options)
    found = jpeg.decode_rows(data, jpeg.read_header(data), 20)
    assert found.shape == (203, 150, 3) and decoded == [203]


def test_grey_becomes_three_equal_channels():
    data = encoded({}, PICTURE[..., 0])
    found = jpeg.decode_rows(data, jpeg.read_header(data), 40)
    np.testing.assert_array_equal(found[:40], simplejpeg.decode_jpeg(data, "RGB")[:40])


@pytest.mark.parametrize("options", [*SEQUENTIAL, *WHOLE])
def test_a_part_is_what_it_is_of_the_decoded_picture(options):
    picture = images.Picture(encoded(options))
    whole = picture.pixels()
    parts = [picture.cut(box, 24, 32) for box in ((5, 7, 40, 60), (170, 0, 33, 60), (3, 3, 24, 32))]
    expected = [whole[5:45, 7:67], whole[170:, :60], whole[3:27, 3:35]]
    for part, pixels in zip(parts, expected, strict=True):  # none lies where the next was decoded
        np.testing.assert_array_equal(part, images.resize(pixels, 24, 32))


def test_row_15_data_that_end_too_early_are_refused_wherever_the_part_lies():
    data = encoded({"quality": 95})
    for end in (len(data) // 4, len(data) // 2, len(data) - 200, len(data) - 3):
        picture = images.Picture(data[:end])
        with pytest.raises(Skip, match="truncated or damaged image"):
            picture.cut((0, 0, 16, 16), 16, 16)


def test_damage_is_found_where_all_is_decoded():
    data = bytearray(encoded({"quality": 95}))
    start = data.index(b"\xff\xda") + 400
    data[start : start + 60] = b"\xff\0" * 30  # what follows is read from another place on
    picture = images.Picture(bytes(data))
    assert picture.cut((0, 0, 16, 16), 16, 16).shape == (16, 16, 3)  # as a decoder sees it
    with pytest.raises(Skip, match="truncated or damaged image"):
        picture.cut((0, 0, 16, 16), 16, 16, whole=True)
    with pytest.raises(Skip, match="truncated or damaged image"):
        picture.pixels()
    options = {"size": 16, "patch_size": 8, "num_masked": 0, "crop_scale": (0.1, 0.2)}
    pipeline = image.Pipeline(decode="whole", **options)
    with pytest.raises(Skip, match="truncated or damaged image"):
        pipeline({"image": bytes(data)}, np.random.default_rng(0))


def test_what_only_pillow_can_judge_is_left_to_it():
    out = io.BytesIO()
    Image.new("CMYK", (20, 30)).save(out, "JPEG")
    assert jpeg.read_header(out.getvalue()) is None
    turned = encoded({"xmp": b'<x tiff:Orientation="6"/>'})
    assert jpeg.read_header(turned) is None
    assert (images.Picture(turned).height, images.Picture(turned).width) == (150, 203)
    for data in (b"", b"\xff\xd8\xff", encoded({})[:100], b"\x89PNG" + bytes(50)):
        assert jpeg.read_header(data) is None
