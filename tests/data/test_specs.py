"""The shapes of batches, told without making any: equal to those of an actual batch."""

import dataclasses

import numpy as np
import pytest

from unified_fm.data import specs, streams
from unified_fm.data.batching import Part
from unified_fm.data.pipelines import base
from unified_fm.data.skips import Skip
from unified_fm.data.specs import ArraySpec
from unified_fm.data.streams import stream

SMALL = {"size": 32, "patch_size": 8, "num_masked": 6}
REGIONS = {"images": 4, "size": 32, "patch_size": 8, "max_len": 24}
MINE = "tests.data.test_specs"


def told(tree):
    """{array: (dtype, shape)} of nested dicts of arrays or of specs."""
    return {
        name: told(value) if isinstance(value, dict) else (np.dtype(value.dtype), value.shape)
        for name, value in tree.items()
    }


@pytest.mark.parametrize(
    "config",
    [
        stream("text", "synthetic:text", 4),
        stream("text", "synthetic:text", 4, max_len=20, mask_rate=0.0),
        stream("text", "synthetic:text", 4, max_len=9, max_masked=3, mask_units="spans"),
        stream("text", "synthetic:text", 4, second="text", max_len=40),
        stream("image", "synthetic:image", 4, **SMALL),
        stream("image", "synthetic:image", 2, num_masked=0, augment="none"),
        stream("image_text", "synthetic:pairs", 4, max_len=24, **SMALL),
        stream("image_text", "synthetic:pairs", 2, max_pixels=10_000, clean="question"),
        stream("classify", "synthetic:image", 4, size=32, crop_scale=(1, 1), flip="none"),
        stream("classify", "synthetic:image+synthetic:image", 4, num_masked=20, randaugment="B"),
        stream("regions", "synthetic:regions", 8, **REGIONS),
        stream("regions", "synthetic:regions", 8, groups=2, mask_rate=0.0, **REGIONS),
        stream("regions", "synthetic:regions", 12, caption="none", num_masked=5, **REGIONS),
        stream("regions", "synthetic:regions", 4, max_regions=1, box_format="unit", **REGIONS)
        | {"max_skip": 1.0},
    ],
    ids=lambda config: config["pipeline"],
)
def test_a_spec_is_that_of_a_batch(config):
    opened = streams.Streams({"x": config}, seed=0, tokenizer="bytes")
    spec = opened.spec()
    assert spec == streams.spec({"x": config}, tokenizer="bytes")
    batch = next(opened)
    assert told(spec["x"]) == told(batch["x"])
    opened.close()
    for name, array in batch["x"].items():
        lengths = {"rows": config["batch_size"], "images": config.get("images")}
        assert len(array) == lengths[spec["x"][name].axis]


def test_the_spec_is_of_the_global_batch():
    config = stream("regions", "synthetic:regions", 8, groups=2, **REGIONS)
    opened = streams.Streams({"x": config}, seed=0, tokenizer="bytes", part=Part((1,), 2))
    spec = opened.spec()["x"]
    assert spec["text"] == ArraySpec((8, 24), np.dtype("int32"), "rows")
    assert spec["image"] == ArraySpec((4, 32, 32, 3), np.dtype("uint8"), "images")
    assert next(opened)["x"]["text"].shape == (4, 24)
    opened.close()


def test_a_batch_of_missing_images_has_the_same_arrays():
    config = stream("regions", "synthetic:regions", 8, num_masked=5, **REGIONS)
    full, last = streams.batches(config, tokenizer="bytes", limit=5)
    assert told(full) == told(last)
    assert last["patch_mask"][1:].max() == 0


def test_slots_may_have_more_arrays_read_ahead_beside_them():
    asked = []

    def opens(loader):
        assert (loader.records, loader.slots) == (10, 4)

        def read(slots):
            asked.extend(slots.tolist())
            return {"cached": {"bert": {"ids": slots[:, None] + np.arange(3)}, "none": {}}}

        return read

    text = stream("text", "synthetic:text:10", 4, cycle=2, max_len=9)
    plain = streams.Streams({"text": text}, seed=0, tokenizer="bytes")
    with_more = [
        streams.Streams(
            {"text": text},
            seed=0,
            tokenizer="bytes",
            extra={"text": opens},
            part=Part((process,), 2),
        )
        for process in range(2)
    ]
    shape = with_more[0].spec()["text"].pop("cached")
    assert shape == {
        "bert": {"ids": ArraySpec((4, 3), np.dtype("int64"))},
        "none": {},
    }
    for step in range(12):
        expected = next(plain)["text"]
        halves = [next(each)["text"] for each in with_more]
        both = specs.concatenate(halves)
        slots = (4 * step + np.arange(4)) % 20  # two epochs of 10, again and again
        assert (both.pop("cached")["bert"]["ids"] == slots[:, None] + np.arange(3)).all()
        for name, array in expected.items():
            np.testing.assert_array_equal(both[name], array)
    assert len(asked) > 50  # ahead of what was handed out
    for each in (plain, *with_more):
        each.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(base.ImageOptions, base.TextOptions):
    """A user's: two images and a sentence."""

    size: int = 16
    num_masked: int = 0
    mask_rate: float = 0.0
    field: str = "text"

    def __call__(self, example, rng):
        if self.field not in example:
            raise Skip(f"no {self.field}")
        text = self.pick_text(example[self.field], rng)
        pair = [self.image_arrays({"image": image}, rng)["image"] for image in example["images"]]
        return self.text_arrays(text, rng) | {
            "images": np.stack(pair),
            "label": base.label(example),
        }


def test_a_users_pipeline_has_a_spec_for_free():
    spec = streams.spec({"x": stream(MINE, "jsonl:none", 6, max_len=8)}, tokenizer="bytes")["x"]
    assert told(spec) == {
        "text": (np.dtype("int32"), (6, 8)),
        "text_mask": (np.dtype("bool"), (6, 8)),
        "images": (np.dtype("uint8"), (6, 2, 16, 16, 3)),
        "label": (np.dtype("int32"), (6,)),
    }


def test_one_that_needs_another_field_is_told_what_to_define():
    with pytest.raises(ValueError, match=r"Pipeline cannot tell .* Define `sample\(self\)`"):
        streams.spec({"x": stream(MINE, "jsonl:x", 6, field="premise")}, tokenizer="bytes")
