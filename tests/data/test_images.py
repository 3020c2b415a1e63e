"""Decoding, geometry and RandAugment, against Pillow and literal values."""

import io
import resource
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from unified_fm.data import boxes, images, randaugment
from unified_fm.data.pipelines import image
from unified_fm.data.skips import Skip, TooManySkips
from unified_fm.data.source import open_source
from unified_fm.data.streams import Streams, batches, stream


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def smooth(height, width):  # u8[H W 3], no sharp edges, all channels different
    y, x = np.mgrid[:height, :width]
    values = [y * 255 // height, x * 255 // width, (x + y) * 255 // (height + width)]
    return np.stack(values, -1).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_row_15_exif_rotation_is_applied_once(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.fromarray(smooth(40, 24))
    as_png = Image.open(io.BytesIO(encoded(plain, "PNG", exif=exif)))
    data = encoded(plain, kind, exif=exif, quality=100)  # AVIF takes the tag out of `exif`
    expected = np.asarray(ImageOps.exif_transpose(as_png)).astype(int)
    picture = images.Picture(data)
    assert picture.orientation == orientation
    assert (picture.height, picture.width) == expected.shape[:2]
    pixels = picture.pixels().astype(int)
    assert pixels.shape == expected.shape
    assert abs(pixels - expected).mean() < 4


@pytest.mark.parametrize("height", [1, 255, 256, 257, 600])
def test_row_15_transparency_is_laid_over_white_in_every_strip(height):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, 5, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(ground, image).convert("RGB"))
    assert (images.decode(encoded(image, "PNG")) == expected).all()
    grey = pixels[..., 0].astype(np.uint16) * 257
    shown = images.decode(encoded(Image.fromarray(grey), "PNG"))
    assert (shown == pixels[..., :1]).all() and shown.shape == (height, 5, 3)


def test_row_15_a_folder_of_odd_files_trains_on_the_good_ones(tmp_path, caplog):
    plain = Image.fromarray(smooth(32, 32))
    jpeg = encoded(plain, "JPEG")
    frames = {"save_all": True, "append_images": [Image.new("RGB", (32, 32))]}
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(smooth(32, 32)[..., 0].astype(np.uint16) * 257)
    clear = plain.quantize(16)
    files = {
        "cmyk.jpg": encoded(plain.convert("CMYK"), "JPEG"),
        "cut.jpg": jpeg[:-200],
        "deep.png": encoded(deep, "PNG"),
        "empty.jpg": b"",
        "moving.gif": encoded(plain, "GIF", **frames),
        "named_wrongly.jpg": encoded(plain, "PNG"),
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "palette.png": encoded(clear, "PNG", transparency=3),
        "turned.jpg": encoded(plain, "JPEG", exif=turned),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).with_suffix(".txt").write_text("a text")
    config = stream("image", f"folder:{tmp_path}", 3, size=32, patch_size=8, num_masked=0)
    tolerant = batches(config | {"max_skip": 0.5, "batch_size": 9})
    (batch,) = tolerant
    assert batch["weight"].tolist() == [1, 0, 1, 0, 1, 1, 0, 1, 1]
    assert next(tolerant, None) is None
    for reason in ("truncated or damaged image", "empty image", "not an image"):
        assert f"1  {reason}" in caplog.text  # the table
    for name in ("cut.jpg", "empty.jpg", "page.jpg"):
        assert f"image {tmp_path}/{name})" in caplog.text  # and each by its name
    streams = Streams({"image": config | {"max_skip": 0.0}}, seed=0)
    with pytest.raises(TooManySkips, match=rf"max_skip=0 allows.* {tmp_path}/\w+\.jpg"):
        for _ in range(3):
            next(streams)
    streams.close()


def test_row_15_odd_kinds_are_decoded():
    colours = Image.fromarray(smooth(16, 16))
    # 16-bit grey: the high byte.
    deep = np.array([[0, 255], [256, 65535]], np.uint16)
    assert images.decode(encoded(Image.fromarray(deep), "PNG"))[..., 0].tolist() == [
        [0, 0],
        [1, 255],
    ]
    # Palette with a transparent colour, and half-transparent black: over white.
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    shown = images.decode(encoded(palette, "PNG", transparency=0))
    assert shown.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert images.decode(encoded(half, "PNG"))[0, 0, 0] == 127
    # CMYK, an animation (its first frame), and a PNG that is called .jpg.
    cmyk = images.decode(encoded(colours.convert("CMYK"), "JPEG", quality=95))
    assert abs(cmyk.astype(int) - smooth(16, 16)).mean() < 3
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.decode(moving)[0, 0].tolist() == [255, 0, 0]
    assert images.decode(np.array([[7]], np.uint8)).tolist() == [[[7, 7, 7]]]


def test_row_15_sixteen_bits_a_channel_become_their_high_eight():
    deep = np.random.default_rng(0).integers(0, 2**16, (5, 7, 3), dtype=np.uint16)  # BGR
    for ending in (".png", ".tif"):
        _, data = cv2.imencode(ending, deep)
        assert (images.decode(data.tobytes()) == (deep >> 8)[..., ::-1]).all()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"progressive": True, "quality": 95}),
        ("JPEG", "CMYK", {"progressive": True, "quality": 95}),
        ("WEBP", "RGB", {"quality": 95}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("AVIF", "RGB", {"quality": 95}),
        ("AVIF", "RGBA", {"quality": 95}),
    ],
)
def test_row_15_newer_kinds_are_decoded(kind, mode, options):
    plain = Image.fromarray(smooth(40, 24)).convert(mode)
    expected = smooth(40, 24).astype(int)
    if mode == "RGBA":
        plain.putalpha(128)
        expected = (expected + 255) // 2  # over white
    picture = images.Picture(encoded(plain, kind, **options))
    assert (picture.format, picture.mode, picture.height) == (kind, mode, 40)
    assert not picture.holds_several()
    assert abs(picture.pixels() - expected).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_row_15_of_an_animation_the_first_frame_is_taken(kind):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    moving = images.Picture(encoded(first, kind, save_all=True, append_images=[second]))
    assert moving.holds_several()
    assert abs(moving.pixels()[8, 8].astype(int) - [255, 0, 0]).max() < 4
    assert not images.Picture(encoded(first, kind)).holds_several()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\n<html><body>404", "it is an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns=', "it is an SVG drawing; convert it"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "it is a Git LFS pointer: `git lfs pu",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC; convert it"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "it is a film"),
        (b'{"error": 404}', "it is JSON"),
        (b"PK\x03\x04\x14\0", "it is an archive"),
        (b"\x01\x02\x03", r"of no kind that is known; it begins with b'\x01\x02\x03'"),
    ],
)
def test_row_15_what_is_no_image_is_called_what_it_is(data, says):
    with pytest.raises(Skip) as caught:
        images.decode(data)
    assert caught.value.reason == "not an image"
    assert caught.value.detail.startswith(says)


def test_row_15_a_url_is_called_a_url(tmp_path):
    url = "https://example.org/cats/1.jpg?width=200"
    (tmp_path / "x.jsonl").write_text(f'{{"image": "{url}", "text": "a cat"}}\n')
    from_file = open_source(f"jsonl:{tmp_path}/x.jsonl")
    for read in (lambda: images.decode(url), lambda: from_file[0]):
        with pytest.raises(Skip) as caught:
            read()
        assert caught.value.reason == "image is a URL"
        assert caught.value.detail == f"{url}; nothing is downloaded: img2dataset does that"


def test_row_15_a_wrong_extension_does_not_matter(tmp_path):
    (tmp_path / "x.jpg").write_bytes(encoded(Image.fromarray(smooth(8, 8)), "PNG"))
    assert (images.decode(tmp_path / "x.jpg") == smooth(8, 8)).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"<!DOCTYPE html><html></html>", "not an image"),
        (encoded(Image.fromarray(smooth(64, 64)), "JPEG")[:-40], "truncated or damaged image"),
        (encoded(Image.fromarray(smooth(64, 64)), "PNG")[:100], "truncated or damaged image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        ("no/such/file.jpg", "missing image"),
        ("nul\0byte.jpg", "missing image"),
        (np.zeros((4, 4, 3), np.float32), "image array of a wrong type"),
        (np.zeros((4, 4, 5), np.uint8), "image array of a wrong shape"),
    ],
)
def test_row_15_unusable_images_are_skipped_with_a_reason(data, reason):
    with pytest.raises(Skip) as caught:
        images.decode(data)
    assert caught.value.reason == reason


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 12_000, 50_000])
def test_row_16_a_bomb_is_refused_from_its_header(side):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(2_000_000)))
    bomb = b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Skip) as caught:
        images.decode(bomb)
    assert caught.value.reason == "oversized image"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000  # kB


def test_D3_the_largest_image_is_a_setting():
    wide = encoded(Image.new("L", (400, 100)), "PNG")
    pipeline = image.Pipeline(size=16, patch_size=8, num_masked=0, max_pixels=40_000)
    with pytest.raises(Skip, match="oversized image: 100 x 400 pixels; max_pixels is 40,000"):
        pipeline({"image": wide}, np.random.default_rng(0))
    pipeline = image.Pipeline(size=16, patch_size=8, num_masked=0, max_pixels=40_001)
    assert pipeline({"image": wide}, np.random.default_rng(0))["image"].shape == (16, 16, 3)
    assert image.Pipeline(num_masked=0).max_pixels == 64_000_000
    with pytest.raises(ValueError, match="max_pixels is 0; possible: 1 to 178,956,970"):
        image.Pipeline(max_pixels=0)


MEASURE = """
import resource, sys
from unified_fm.data import images
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = images.Picture(data).pixels()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(peak * 1024 / (pixels.shape[0] * pixels.shape[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {"compress_level": 1}),
        ("PNG", "LA", {"compress_level": 1}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0}),
        ("AVIF", "RGBA", {"speed": 10}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("GIF", "P", {}),
    ],
)
def test_D3_decoding_takes_no_more_memory_than_is_stated(tmp_path, kind, mode, options):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = options if kind == "GIF" else options | {"exif": exif}
    Image.new(mode, (4000, 3990)).save(tmp_path / "x", kind, **options)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < images.BYTES_PER_PIXEL


@pytest.mark.parametrize("size", [(224, 224), (30, 90), (500, 400)])
def test_resize_is_close_to_pillow(size):
    image = smooth(301, 403)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    assert abs(images.resize(image, *size).astype(int) - expected).mean() < 0.7


def test_resize_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert set(np.unique(images.resize(stripes, 32, 32))) <= {127, 128}


def test_a_jpeg_may_be_decoded_smaller_but_not_below_what_is_needed():
    picture = images.Picture(encoded(Image.fromarray(smooth(400, 600)), "JPEG", quality=95))
    small = picture.pixels(min_height=100, min_width=120)
    assert 100 <= small.shape[0] < 200
    expected = images.resize(picture.pixels(), *small.shape[:2])
    assert abs(small.astype(int) - expected).mean() < 2
    assert picture.pixels(min_height=300, min_width=300).shape == (400, 600, 3)


def test_random_crops_follow_scale_and_aspect():
    rng = np.random.default_rng(0)
    found = np.array([images.random_crop_box(300, 400, rng, scale=(0.2, 1)) for _ in range(1000)])
    top, left, height, width = found.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 300).all() and (left + width <= 400).all()
    area, aspect = height * width / 120_000, width / height
    assert 0.19 < area.min() < 0.25 and area.max() > 0.95
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    # Too long for any crop of these ratios: the largest central one.
    assert images.random_crop_box(10, 1000, rng, scale=(1, 1)) == (0, 493, 10, 13)


def test_randaugment_against_pillow():
    image = smooth(64, 48) // 2 + 30
    rng = np.random.default_rng(0)
    pillow = Image.fromarray(image)
    assert (randaugment.autocontrast(image, rng) == np.asarray(ImageOps.autocontrast(pillow))).all()
    assert (randaugment.equalize(image, rng) == np.asarray(ImageOps.equalize(pillow))).all()
    flat = np.full((4, 4, 3), 9, np.uint8)
    assert (randaugment.autocontrast(flat, rng) == flat).all()
    assert (randaugment.equalize(flat, rng) == flat).all()


def test_randaugment_has_the_published_strengths():
    rng = np.random.default_rng(0)
    grey = np.full((5, 5, 3), 100, np.uint8)
    assert (randaugment.brightness(grey, rng) == 136).all()
    dot = grey.copy()
    dot[2, 2] = 113  # smoothed to 100 + 13 * 5 / 13 = 105, and 105 + 1.36 * 8 = 116
    assert randaugment.sharpness(dot, rng)[2, 2].tolist() == [116, 116, 116]
    white = np.full((100, 100, 3), 255, np.uint8)
    moved = randaugment.translate_x(white, rng)
    assert (moved == 128).all(axis=(0, 2)).sum() == 7
    sheared = randaugment.shear_x(white, rng)
    assert abs((sheared[99, :, 0] == 128).sum() - 20.8) <= 1.5
    corners = randaugment.rotate(white, rng)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 128).all()


def test_randaugment_applies_each_of_two_operations_half_of_the_time():
    rng = np.random.default_rng(0)
    image = rng.integers(50, 200, (16, 16, 3), dtype=np.uint8)  # every other operation changes it
    same = np.mean([(randaugment.randaugment(image, rng, "A") == image).all() for _ in range(2000)])
    # Each is not applied, or it is the identity, one of ten.
    expected = 0.55**2
    assert abs(same - expected) < 3 * np.sqrt(expected * (1 - expected) / 2000)
    assert randaugment.randaugment(image, rng, "none") is image
    with pytest.raises(ValueError, match="randaugment is 'C'"):
        randaugment.randaugment(image, rng, "C")


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([10, 10, 0, 5], "box of zero or negative size"),
        ([10, 10, -4, 5], "box of zero or negative size"),
        ([10, float("nan"), 4, 5], "box has NaN or infinity"),
        ([10, 10, float("inf"), 5], "box has NaN or infinity"),
        ([200, 10, 20, 20], "box outside its image"),
        ([-30, 10, 40, 20], "box outside its image"),
        ([60, 50, 90, 70], "box outside its image"),  # x0, y0, x1, y1 given as x, y, w, h
        ([1, 2, 3], "box is not four numbers"),
        (["a", 2, 3, 4], "box is not four numbers"),
        (None, "box is not four numbers"),
    ],
)
def test_row_25_bad_boxes_are_told_apart(box, problem):
    parsed, why = boxes.parse(box, height=80, width=100)
    assert parsed is None
    assert why.startswith(problem)


def test_a_box_that_sticks_out_a_little_is_clipped():
    parsed, _ = boxes.parse([-1, 70, 50, 11.5], height=80, width=100)
    assert parsed.tolist() == [0, 70, 49, 80]


def test_boxes_through_a_crop():
    # Crop: x 20..60, y 10..30. The second box has 40% of its area inside, the third 60%.
    found = np.array([[20, 10, 40, 20], [0, 10, 200 / 6, 20], [0, 10, 50, 20.0]])
    unit, kept = boxes.through_crop(found, (10, 20, 20, 40), mirrored=False)
    assert unit[0].tolist() == [0, 0, 0.5, 0.5]
    assert kept.tolist() == [True, False, True]
    mirrored, _ = boxes.through_crop(found, (10, 20, 20, 40), mirrored=True)
    assert mirrored[0].tolist() == [0.5, 0, 1, 0.5]
    assert boxes.to_centre(unit)[0].tolist() == [0.25, 0.25, 0.5, 0.5]


def test_touched_patches():
    found = np.array([[0, 0, 0.5, 0.5], [0.3, 0.6, 0.55, 0.7], [0.25, 0.25, 0.25, 0.25]])
    masks = boxes.touched_patches(found, 4).reshape(3, 4, 4).astype(int)
    assert masks[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert masks[1].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert masks[2].sum() == 1  # at least one patch


def test_the_crop_around_a_box_contains_it():
    rng = np.random.default_rng(0)
    box = np.array([10.5, 20, 30.2, 40.9])
    crops = np.array([boxes.crop_around(box, 50, 60, rng) for _ in range(500)])
    top, left, height, width = crops.T
    assert (left <= 10).all() and (left + width >= 31).all() and (left + width <= 60).all()
    assert (top <= 20).all() and (top + height >= 41).all() and (top + height <= 50).all()
    assert (left.min(), left.max()) == (0, 10)
    assert ((left + width).min(), (left + width).max()) == (31, 60)
