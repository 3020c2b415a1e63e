import numpy as np

from tests.evaluators import worlds
from unified_fm.evaluators import itm


def test_random_caption_is_never_the_own_one_nor_of_the_same_id():
    records = [
        {"text": "a cat", "id": 0},
        {"text": ["a cat", "a dog"], "id": 1},
        {"text": "a dog and a cat", "id": 1},
        {"text": "a bus", "id": 2},
    ]
    for seed in range(20):
        chosen = itm.random_captions(records, np.random.default_rng(seed))
        assert chosen[0] in ("a dog and a cat", "a bus")
        assert chosen[1] == "a bus"
        assert chosen[2] in ("a cat", "a bus")


def test_a_lone_caption_has_no_wrong_one():
    assert itm.random_captions([{"text": "a cat"}], np.random.default_rng(0)) == [None]


def test_swapping_takes_the_article_along_and_brings_nothing_that_is_there():
    def record(*phrases):
        return {"text": " and ".join(phrases), "regions": [{"text": p} for p in phrases]}

    records = [record("a cat", "an owl"), record("an apple"), record("a cat")]
    seen = {itm.swapped_captions(records, np.random.default_rng(s))[0] for s in range(40)}
    assert seen == {"an apple and an owl", "a cat and an apple"}
    assert itm.swapped_captions(records[:1], np.random.default_rng(0)) == [None]


def test_a_phrase_must_be_in_the_caption_as_whole_words():
    assert itm.contains("A cat, an owl and a kite", "a cat")
    assert not itm.contains("a catalogue", "a cat")
    region = {"text": "the logo"}
    records = [{"text": "a bus", "regions": [region]}, {"text": "a bus", "regions": []}]
    assert itm.swapped_captions(records, np.random.default_rng(0)) == [None, None]


def metrics_of(confused):
    tokenizer = worlds.make_tokenizer()
    apply = worlds.Apply(worlds.Oracle(tokenizer, confused=confused))
    metrics = {m.name: m for m in worlds.evaluator(itm, "eight", tokenizer).run(apply, {})}
    assert apply.compiled == 1  # both kinds of wrong captions have the same shapes
    assert {m.chance for m in metrics.values()} == {0.5}
    return {name: m.value for name, m in metrics.items()}


def test_a_perfect_net_tells_every_wrong_caption():
    assert metrics_of(confused=False) == {
        "random_caption/accuracy": 1.0,
        "random_caption/ranking": 1.0,
        "swapped_object/accuracy": 1.0,
        "swapped_object/ranking": 1.0,
    }


def test_a_net_that_answers_red_to_everything_gains_nothing_from_ties():
    metrics = metrics_of(confused=True)
    # Only the red image's own caption scores above its wrong one; all others tie or lose.
    assert metrics["swapped_object/ranking"] == 1 / 8
    assert 0.25 < metrics["swapped_object/accuracy"] < 0.75
