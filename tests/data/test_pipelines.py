"""Pipelines: the arrays of the contract, what augmentation may not change, packing."""

import numpy as np
import pytest

from unified_fm.data import captions, packing, tokenizer
from unified_fm.data.pipelines import classify, image, image_text, regions, text
from unified_fm.data.skips import Skip

SMALL = {"size": 32, "patch_size": 8}


@pytest.fixture
def plain():
    return tokenizer.load("bytes")


def halves():  # u8[40 80 3], left half red, right half blue
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40, 0] = picture[:, 40:, 2] = 255
    return picture


def rng(seed=0):
    return np.random.default_rng(seed)


def shapes(arrays):
    return {key: (value.dtype.name, value.shape) for key, value in arrays.items()}


def test_the_arrays_of_each_pipeline(plain):
    of_text = {
        "text": ("int32", (16,)),
        "text_mask": ("bool", (16,)),
        "text_masked": ("int32", (16,)),
        "masked_positions": ("int32", (5,)),
        "masked_ids": ("int32", (5,)),
    }
    of_image = {"image": ("uint8", (32, 32, 3)), "patch_mask": ("bool", (16,))}
    sizes = {"tokenizer": plain, "max_len": 16, "max_masked": 5}
    example = {"image": halves(), "text": ["two halves", "red, blue"], "label": 3, "id": 9}
    assert shapes(text.Pipeline(**sizes)(example, rng())) == of_text
    assert shapes(image.Pipeline(num_masked=6, **SMALL)(example, rng())) == of_image
    pairs = image_text.Pipeline(num_masked=6, **SMALL, **sizes)(example, rng())
    assert shapes(pairs) == of_text | of_image | {"example_id": ("int32", ())}
    assert pairs["patch_mask"].sum() == 6
    assert pairs["example_id"] == 9
    labelled = classify.Pipeline(**SMALL)(example, rng())
    assert shapes(labelled) == {"image": of_image["image"], "label": ("int32", ())}
    assert labelled["label"] == 3


def test_pairs_of_texts_have_segments(plain):
    example = {"text": "premise", "hypothesis": ["so"], "label": 1}
    sizes = {"tokenizer": plain, "max_len": 16, "mask_rate": 0.0}
    pair = text.Pipeline(second="hypothesis", **sizes)(example, rng())
    assert shapes(pair)["segments"] == ("int32", (16,))
    known = plain.encode("premise", 16, "so")
    assert (pair["text"] == known.ids).all() and (pair["segments"] == known.segments).all()
    assert "segments" not in text.Pipeline(**sizes)(example, rng())
    labelled = classify.Pipeline(inputs="text", second="hypothesis", **sizes)(example, rng())
    assert set(labelled) == {"text", "text_mask", "segments", "label"}
    with pytest.raises(Skip, match="no text in 'premise'"):
        text.Pipeline(second="premise", **sizes)(example, rng())
    with pytest.raises(ValueError, match=r"max_len is 5; two texts \(second='b'\) need 6"):
        text.Pipeline(tokenizer=plain, second="b", max_len=5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("caption", "a person s red bus well two"),
        ("question", "a <person> s  red bus   well  two"),
        ("none", "A <person>'s (red)-bus/ well; two!"),
    ],
)
def test_cleaning(kind, expected):
    given = "A <person>'s (red)-bus/ well; two!"
    cleaned = captions.clean(given, kind, max_words=30)
    if kind == "question":  # no collapsing: each sign became one space
        assert cleaned.split() == expected.split()
        assert "  " in cleaned
    else:
        assert cleaned == expected


def test_cleaning_keeps_the_first_words():
    assert captions.clean("One, two three", "caption", max_words=2) == "one two"
    assert captions.clean("?!.", "caption", max_words=2) == ""


def test_a_random_caption_is_picked(plain):
    pipeline = text.Pipeline(tokenizer=plain, max_len=8)
    made = [pipeline({"text": ["a", "b"]}, rng(seed))["text"][1] for seed in range(200)]
    share = np.mean(np.array(made) == made[0])
    assert abs(share - 0.5) < 3 * np.sqrt(0.25 / 200)


@pytest.mark.parametrize(
    ("given", "reason"),
    [(None, "no text"), ([], "no text"), ("", "empty text"), (" \n", "empty text"), (7, "text of")],
)
def test_row_24_unusable_texts_are_skipped(plain, given, reason):
    with pytest.raises(Skip, match=reason):
        text.Pipeline(tokenizer=plain)({"text": given}, rng())


@pytest.mark.parametrize(
    "given", ["🦓🦓", "\0\0\ud800", "x" * 10_000_000, "!?" * 5_000_000, "שלום"]
)
@pytest.mark.parametrize("clean", captions.KINDS)
def test_row_24_strange_texts_survive_the_pipeline(plain, given, clean):
    pipeline = text.Pipeline(tokenizer=plain, clean=clean, max_len=12)
    try:
        assert pipeline({"text": given}, rng())["text"].shape == (12,)
    except Skip as skip:
        assert skip.reason == "empty text" and given.startswith("!?") and clean != "none"


def test_without_augmentation_the_image_is_only_resized():
    pipeline = image.Pipeline(num_masked=0, augment="none", **SMALL)
    made = pipeline({"image": halves()}, rng())["image"]
    assert (made[:, :15] == [255, 0, 0]).all() and (made[:, 17:] == [0, 0, 255]).all()


def test_flips_are_half_and_careful_ones_spare_sides(plain):
    def flipped(flip, caption, seed):
        options = {"flip": flip, "randaugment": "none", "crop_scale": (1, 1), "tokenizer": plain}
        made = image_text.Pipeline(**options, **SMALL, num_masked=0)(
            {"image": halves(), "text": caption}, rng(seed)
        )
        return bool(made["image"][0, 0, 2] > 127)

    share = np.mean([flipped("random", "x", seed) for seed in range(200)])
    assert abs(share - 0.5) < 3 * np.sqrt(0.25 / 200)
    assert any(flipped("careful", "red and blue", seed) for seed in range(20))
    assert not any(flipped("careful", "red on the left", seed) for seed in range(20))
    assert not any(flipped("none", "x", seed) for seed in range(20))


def test_regions_boxes_follow_the_image(plain):
    # The true boxes are the two halves: wherever crop and flip take them, the patches that a box
    # touches fully must have its colour.
    pipeline = regions.Pipeline(tokenizer=plain, randaugment="none", max_len=12, **SMALL)
    found = [{"box": [0, 0, 40, 40], "text": "red"}, {"box": [40, 0, 40, 40], "text": "blue"}]
    seen = set()
    for seed in range(60):
        made = pipeline({"image": halves(), "regions": found, "text": "both"}, rng(seed))
        rows = made["rows"]
        assert rows["is_image"].tolist() == [True] + [False] * (len(rows["box"]) - 1)
        assert rows["box"][0].tolist() == [0.5, 0.5, 1, 1]
        assert rows["region_mask"][0].all()
        for ids, (cx, cy, w, h) in zip(rows["text"][1:], rows["box"][1:], strict=True):
            name = plain.decode(ids)
            x, y = int(cx * 32), int(cy * 32)
            colour = made["image"][y, min(x, 31)]
            assert colour[0 if name == "red" else 2] > 127
            assert cx - w / 2 > -1e-6 and cx + w / 2 < 1 + 1e-6 and w > 0 and h > 0
            seen.add((name, round(float(cx), 1)))
    assert len(seen) > 4  # crops and flips really move the boxes


def test_row_25_bad_boxes_are_dropped_and_the_image_kept(plain):
    pipeline = regions.Pipeline(tokenizer=plain, augment="none", max_len=12, **SMALL)
    found = [
        {"box": [0, 0, 0, 5], "text": "flat"},
        {"box": [50, 5, 80, 30], "text": "corners instead of sizes"},
        {"box": [float("nan"), 0, 5, 5], "text": "nan"},
        {"box": [0, 0, 40, 40], "text": ""},
        "no dict",
        {"box": [40, 0, 40, 40], "text": "blue", "attributes": ["deep"]},
    ]
    made = pipeline({"image": halves(), "regions": found}, rng())
    assert [plain.decode(ids) for ids in made["rows"]["text"]] == ["deep blue"]
    assert made["rows"]["box"].tolist() == [[0.75, 0.5, 0.5, 1]]
    assert sorted(made["parts"].dropped.values()) == [1, 1, 1, 1, 1]
    with pytest.raises(Skip, match="no usable region"):
        pipeline({"image": halves(), "regions": found[:5]}, rng())


def test_at_most_max_regions_texts(plain):
    pipeline = regions.Pipeline(tokenizer=plain, max_regions=3, max_len=12, **SMALL)
    found = [{"box": [0, 0, 80, 40], "text": str(k)} for k in range(9)]
    rows = pipeline({"image": halves(), "regions": found, "text": "all"}, rng())["rows"]
    assert plain.decode(rows["text"][0]) == "all"
    assert len(rows["text"]) == 3


def packed_example(count, priority):
    return {
        "image": np.full((2, 2, 3), count, np.uint8),
        "rows": {"x": np.arange(10 * count, 10 * count + count)},
        "priority": np.array(priority),
    }


def test_packing_pads_and_samples_within_groups():
    examples = [
        packed_example(1, [0.5]),
        packed_example(3, [0.1, 0.9, 0.3]),  # 4 rows for 3 places: priority 0.9 is left out
        packed_example(2, [0.2, 0.4]),
        None,  # 2 rows for 3 places
    ]
    empty = {"image": np.zeros((2, 2, 3), np.uint8)}
    batch = packing.pack(examples, rows=6, groups=2, blank={"x": np.array([-1])}, blank_image=empty)
    assert batch["x"].tolist() == [10, 30, 32, 20, 21, -1]
    assert batch["image_index"].tolist() == [0, 1, 1, 0, 0, 0]  # places in the group
    assert batch["weight"].tolist() == [1, 1, 1, 1, 1, 0]
    assert batch["image"][:, 0, 0, 0].tolist() == [1, 3, 2, 0]


def test_a_padded_row_has_a_text_and_no_masked_token(plain):
    pipeline = regions.Pipeline(tokenizer=plain, max_len=12, augment="none", **SMALL)
    found = [{"box": [0, 0, 40, 40], "text": "red"}]
    made = pipeline({"image": halves(), "regions": found}, rng())
    batch = pipeline.collate([made], rows=2, groups=1)
    assert batch["text_mask"][1].tolist() == [True, True] + [False] * 10  # cls and sep
    assert (batch["masked_ids"][1] == -100).all()
    assert (batch["text_masked"][1] == batch["text"][1]).all()
    assert batch["is_image"].tolist() == [False, True]
    assert batch["weight"].tolist() == [1, 0]


def test_wrong_options_are_refused(plain):
    with pytest.raises(ValueError, match="size 30 is not a multiple of patch_size 8"):
        image.Pipeline(size=30, patch_size=8)
    with pytest.raises(ValueError, match="num_masked 75; an image has 16 patches"):
        image.Pipeline(**SMALL)
    with pytest.raises(ValueError, match="flip is 'carefully'; did you mean 'careful'"):
        image.Pipeline(num_masked=0, flip="carefully", **SMALL)
    with pytest.raises(ValueError, match='use "B"'):
        regions.Pipeline(tokenizer=plain, randaugment="A", **SMALL)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        classify.Pipeline(inputs="text")
    with pytest.raises(Skip, match="no usable label"):
        classify.Pipeline(**SMALL)({"image": halves(), "label": "cat"}, rng())
