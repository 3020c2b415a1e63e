"""That FLOPs are counted as by hand, for the published sizes."""

import numpy as np
import pytest

from unified_fm.bench import flops
from unified_fm.config import file

D, LAYERS, TOKENS, WORDS = 768, 12, 197, 50265


def encoder(t):  # self-attention: q, k, v, o and an MLP of 4 D; scores and their product
    return LAYERS * (24 * t * D * D + 4 * t * t * D)


def fusion(t):  # of a text: also q and o across, and scores over the image
    return LAYERS * (28 * t * D * D + 4 * t * t * D + 4 * t * TOKENS * D)


def head(words):
    return words * (2 * D * D + 2 * D * WORDS)


VISION = encoder(TOKENS) + 2 * 196 * 768 * 768
KEYS_VALUES = LAYERS * 4 * TOKENS * D * D


def pair(t, words, projected):
    return 6 * VISION + 4 * encoder(t) + 3 * (4 * fusion(t) + projected * KEYS_VALUES + head(words))


def region(t, words, projected):  # 80 images for 96 texts
    text = 4 * encoder(t) + 3 * (5 * fusion(t) + projected * KEYS_VALUES + head(words))
    return 3 * VISION * 80 / 96 + text


EXPECTED = {  # official, shared, necessary
    "pairs": (pair(30, 15, 4), pair(30, 15, 1), pair(13.5, 6.75, 1)),
    "regions": (region(30, 15, 5), region(30, 15, 80 / 96), region(9, 4.5, 80 / 96)),
    "image": (4 * VISION,) * 3,
    "text": (3 * (encoder(128) + head(20)),) * 2 + (3 * (encoder(128) + head(19.2)),),
}


def test_the_published_step_is_counted_as_by_hand():
    settings = file.load("xfm_base:chips=1")
    counted = flops.of_step(settings)
    for name, numbers in EXPECTED.items():
        rows = settings.streams[name].batch_size
        assert list(vars(counted[name]).values()) == pytest.approx([rows * n for n in numbers])
    total = flops.total(counted)
    assert total.official == pytest.approx(95.65e12, rel=1e-4)  # 95.7 TFLOP, as known for a device


def test_necessary_is_of_the_lengths_that_a_batch_has():
    settings = file.load("xfm_base:chips=1", ["streams.text.batch_size=2"])
    batch = {
        "text_mask": np.arange(128) < np.array([[100], [20]]),
        "masked_ids": np.where(np.arange(20) < np.array([[15], [3]]), 7, -100),
    }
    counted = flops.of_step(settings, {"text": flops.of_batch(batch)})["text"]
    assert counted.necessary == pytest.approx(3 * (encoder(100) + encoder(20) + head(18)))
    assert counted.official == pytest.approx(2 * EXPECTED["text"][0])


def test_one_encoder_for_both_and_a_class_head():
    counted = flops.of_step(file.load("ufm_base"))
    assert counted["image"].official == pytest.approx(1024 * 3 * (VISION + 2 * D * 21843))
    words = 20 * (2 * D * D + 2 * D * 30522)
    assert counted["text"].official == pytest.approx(256 * 3 * (encoder(128) + words))
