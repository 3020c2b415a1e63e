"""Streams: the same batches from any position, on any number of processes and threads; skips."""

import gc
import json
import os
import threading
import time

import numpy as np
import pytest

from unified_fm.data import order, records
from unified_fm.data.batching import Part
from unified_fm.data.skips import TooManySkips
from unified_fm.data.streams import Streams, batches, stream

SMALL = {"size": 32, "patch_size": 8, "num_masked": 6}
FOUR = {
    "text": stream("text", "synthetic:text:50", 8, {"mlm": 1.0}, max_len=24),
    "image": stream("image", "synthetic:image:10", 4, {"mim": 1.0}, **SMALL),
    "pairs": stream("image_text", "synthetic:pairs", 4, {"itc": 1.0}, max_len=24, **SMALL),
    "regions": stream(
        "regions", "synthetic:regions", 8, images=4, groups=2, size=32, patch_size=8, max_len=24
    ),
}


def open_streams(configs=FOUR, **options):
    return Streams(configs, **({"seed": 1, "tokenizer": "bytes"} | options))


def take(streams, count):
    return [next(streams) for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name in one.keys() | other.keys():
            assert one[name].keys() == other[name].keys()
            for key in one[name]:
                np.testing.assert_array_equal(one[name][key], other[name][key], f"{name} {key}")


@pytest.fixture
def undisturbed():
    streams = open_streams()
    yield take(streams, 12)
    streams.close()


def test_every_stream_gives_its_share(undisturbed):
    shapes = {
        name: {key: value.shape[0] for key, value in batch.items()}
        for name, batch in undisturbed[0].items()
    }
    assert set(shapes["text"].values()) == {8}
    assert set(shapes["image"].values()) == set(shapes["pairs"].values()) == {4}
    assert shapes["regions"].pop("image") == 4
    assert set(shapes["regions"].values()) == {8}
    # Rows of a group refer to its two images only.
    assert set(undisturbed[0]["regions"]["image_index"]) == {0, 1}


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_row_10_a_resumed_run_continues_bit_for_bit(undisturbed, stop):
    stopped = open_streams()
    take(stopped, stop)  # its background thread has gone further than this
    state = json.loads(json.dumps(stopped.state()))
    stopped.close()
    assert len(json.dumps(state)) < 400
    resumed = open_streams()
    take(resumed, 3)  # restoring discards whatever was read before
    resumed.restore(state)
    assert_same(take(resumed, 12 - stop), undisturbed[stop:])
    resumed.close()


def test_row_08_two_processes_share_the_batches_of_one(undisturbed):
    both = [open_streams(part=Part((p,), 2)) for p in (0, 1)]
    taken = [take(streams, 12) for streams in both]
    joined = [
        {name: {key: np.concatenate([a[name][key], b[name][key]]) for key in a[name]} for name in a}
        for a, b in zip(*taken, strict=True)
    ]
    assert_same(joined, undisturbed)
    state = both[0].state()
    assert state == both[1].state()
    alone = open_streams()
    alone.restore(state)
    assert alone.state() == state
    for streams in both:
        streams.close()


def test_the_tokens_of_a_text_come_first_and_its_padding_behind_them(undisturbed):
    """Fused attention is told their number, and of no other mask: see `Encoder.padded`."""
    masks = [
        batch["text_mask"] for step in undisturbed for batch in step.values() if "text" in batch
    ]
    assert len(masks) == 3 * 12 and not np.concatenate([mask.ravel() for mask in masks]).all()
    for mask in masks:
        np.testing.assert_array_equal(mask, np.arange(24) < mask.sum(1, keepdims=True))


def test_the_number_of_threads_changes_nothing(undisturbed):
    configs = {name: config | {"threads": 1} for name, config in FOUR.items()}
    streams = open_streams(configs)
    assert_same(take(streams, 12), undisturbed)
    streams.close()


def test_each_epoch_visits_every_record_once_in_another_order():
    visits = order.Order(10, seed=3, shuffle=True)
    epochs = [[visits.index(10 * epoch + place) for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    plain = order.Order(3, seed=3, shuffle=False)
    assert [plain.index(slot) for slot in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_an_order_too_long_for_a_table_is_still_a_permutation(monkeypatch):
    monkeypatch.setattr(order, "_TABLE", 5)
    visits = order.Order(100, seed=3, shuffle=True)
    first, second = ([visits.index(100 * e + k) for k in range(100)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_another_epoch_draws_another_augmentation():
    streams = open_streams({"image": stream("image", "synthetic:image:4", 4, **SMALL)})
    masks = [
        {mask.tobytes() for mask in batch["image"]["patch_mask"]} for batch in take(streams, 2)
    ]
    assert masks[0] != masks[1]
    streams.close()


def test_another_seed_gives_other_batches(undisturbed):
    streams = open_streams(seed=2)
    assert (next(streams)["text"]["text"] != undisturbed[0]["text"]["text"]).any()
    streams.close()


def test_last_records_are_those_of_the_batch():
    configs = {"text": stream("text", "synthetic:text:50", 8, max_len=200, mask_rate=0.0)}
    streams = open_streams(configs)
    take(streams, 3)
    batch = next(streams)["text"]
    loader = streams.loaders["text"]
    for index, ids in zip(streams.last_records()["text"], batch["text"], strict=True):
        said = loader.pipeline.tokenizer.decode(ids)
        assert loader.source[index]["text"].startswith(said)
    streams.close()


def test_row_09_another_batch_size_is_an_error_unless_allowed():
    streams = open_streams()
    take(streams, 3)
    state = streams.state()
    streams.close()
    larger = FOUR | {"text": FOUR["text"] | {"batch_size": 16}}
    changed = open_streams(larger)
    with pytest.raises(ValueError, match=r"'text': .* batch 8, and now it is 16.* allow 'batch'"):
        changed.restore(state)
    changed.restore(state, allow=("batch",))
    assert changed.state()["streams"]["text"]["samples"] == 24  # goes on after the samples seen
    fewer = {name: config for name, config in FOUR.items() if name != "image"}
    with pytest.raises(ValueError, match="allow 'streams'"):
        open_streams(fewer).restore(state)
    with pytest.raises(ValueError, match="seed 1, and now it is 7"):
        open_streams(seed=7).restore(state)


def test_a_forgotten_iterator_ends_its_threads():
    streams = open_streams()
    next(streams)
    assert any(t.name == "streams" for t in threading.enumerate())
    del streams
    gc.collect()
    deadline = time.monotonic() + 20
    while any(t.name == "streams" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(t.name == "streams" for t in threading.enumerate())


def test_waiting_is_measured():
    streams = open_streams()
    assert streams.wait_time == 0
    next(streams)
    first = streams.wait_time
    assert first > 0
    time.sleep(1)  # the next batch is ready by now, or nearly
    next(streams)
    assert streams.wait_time < first + 1
    streams.close()


def test_row_26_an_error_in_a_loader_thread_reaches_the_loop(tmp_path, monkeypatch):
    (tmp_path / "broken_source.py").write_text(
        "from unified_fm.data.sources import base\n"
        "class Source(base.Source):\n"
        "    def __init__(self, argument): pass\n"
        "    def __len__(self): return 100\n"
        "    def __getitem__(self, index): raise ZeroDivisionError('a bug')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    os.rename(tmp_path / "broken_source.py", tmp_path / "mine" / "broken_source.py")
    streams = open_streams({"text": stream("text", "mine.broken_source:x", 4)})
    for _ in range(2):  # and again, instead of hanging
        with pytest.raises(ZeroDivisionError, match="a bug") as caught:
            next(streams)
        assert "in stream 'text', record" in caught.value.__notes__[0]
    streams.close()


def write_texts(path, texts):
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return f"jsonl:{path}"


def test_S1_a_process_loads_the_parts_that_it_is_asked_for_in_any_order(undisturbed):
    """On a pod a process's devices hold parts that are no neighbours; two may hold the same."""
    configs = {name: FOUR[name] for name in ("regions", "text")}
    whole = {name: batch for name, batch in undisturbed[0].items() if name in configs}
    for part in (Part((0,), 2), Part((1,), 2), Part((0, 1), 2)):
        opened = open_streams(configs, part=part)
        [found] = take(opened, 1)
        opened.close()
        for name, batch in found.items():
            for key, x in batch.items():
                size = len(whole[name][key]) // 2
                rows = [whole[name][key][k * size : (k + 1) * size] for k in part.shards]
                np.testing.assert_array_equal(x, np.concatenate(rows))


def test_row_23_too_few_records_name_both_counts(tmp_path):
    few = write_texts(tmp_path / "few.jsonl", ["a", "b", "c"])
    with pytest.raises(ValueError, match="has 3 records, fewer than the 4 of one batch"):
        open_streams({"text": stream("text", few, 4)})
    (tmp_path / "none.jsonl").write_text("\n \n")
    with pytest.raises(ValueError, match="has 0 records"):
        open_streams({"text": stream("text", f"jsonl:{tmp_path}/none.jsonl", 4)})
    with pytest.raises(ValueError, match="batch_size=6 does not divide among 4 parts"):
        open_streams({"text": stream("text", few, 6)}, part=Part((0,), 4))
    with pytest.raises(ValueError, match="no stream is configured"):
        open_streams({})


def test_row_15_few_bad_records_are_replaced_and_counted(tmp_path, caplog):
    texts = ["" if k == 7 else f"text {k}" for k in range(200)]
    source = write_texts(tmp_path / "x.jsonl", texts)
    streams = open_streams({"text": stream("text", source, 50)})
    taken = np.concatenate([batch["text"]["text"] for batch in take(streams, 8)])
    assert taken.shape[0] == 400  # two epochs, no row missing
    assert "empty text" in streams.skip_table()
    assert f"record 7 of {source} ({tmp_path}/x.jsonl, line 8): empty text" in caplog.text
    streams.close()
    # The replacement does not depend on the number of processes, nor move any other row.
    both = [open_streams({"text": stream("text", source, 50)}, part=Part((p,), 2))
            for p in (0, 1)]  # fmt: skip
    halves = [np.stack([b["text"]["text"] for b in take(s, 8)]) for s in both]
    assert (np.concatenate(halves, axis=1).reshape(400, -1) == taken).all()
    for streams in both:
        streams.close()


def test_row_15_more_than_the_allowed_share_stops_the_run(tmp_path):
    texts = ["" if k % 10 == 0 else f"text {k}" for k in range(100)]
    source = write_texts(tmp_path / "x.jsonl", texts)
    streams = open_streams({"text": stream("text", source, 20)})
    with pytest.raises(TooManySkips, match=r"more than max_skip=0\.01 .*(?s:.*)\d+  empty text"):
        take(streams, 100)
    streams.close()
    tolerant = open_streams({"text": stream("text", source, 20, max_skip=0.2)})
    take(tolerant, 20)
    tolerant.close()
    strict = open_streams({"text": stream("text", source, 20, max_skip=0.0)})
    with pytest.raises(TooManySkips, match="max_skip=0 allows"):
        take(strict, 20)
    strict.close()


def test_row_17_a_run_goes_on_without_a_corrupt_shard_unless_strict(tmp_path, caplog):
    paths = records.write_shards(
        tmp_path / "t", ({"text": f"text {k}"} for k in range(40)), per_shard=10
    )
    paths[1].write_bytes(paths[1].read_bytes()[:2000])
    config = stream("text", f"array_record:{tmp_path}/t", 10, max_len=12)
    streams = open_streams({"text": config})
    assert streams.loaders["text"].records == 30
    take(streams, 6)
    assert "1  (file) unreadable shard" in streams.skip_table()
    assert str(paths[1]) in caplog.text
    streams.close()
    with pytest.raises(TooManySkips, match="unreadable shard"):
        open_streams({"text": config | {"max_skip": 0.0}})


def test_row_25_bad_boxes_are_counted_in_the_table(tmp_path):
    image = np.zeros((20, 20, 3), np.uint8)
    good = {"box": [0, 0, 9, 9], "text": "good"}
    bad = {"box": [0, 0, -9, 9], "text": "bad"}
    records.write_shards(
        tmp_path / "r", ({"image": image, "regions": [good, bad]} for _ in range(8))
    )
    config = stream(
        "regions", f"array_record:{tmp_path}/r", 4, images=4, size=16, patch_size=8, max_len=8,
        max_skip=0.5,
    )  # fmt: skip
    streams = open_streams({"regions": config})
    batch = next(streams)["regions"]
    assert batch["weight"].tolist() == [1, 1, 1, 1]
    assert "(part) box of zero or negative size" in streams.skip_table()
    streams.close()


def test_evaluation_passes_once_in_order_and_fills_up(tmp_path):
    source = write_texts(tmp_path / "x.jsonl", ["a", "b", "", "d", "e"])
    config = stream("text", source, 2, max_len=4, max_skip=1.0)
    once = list(batches(config, tokenizer="bytes"))
    again = list(batches(config, tokenizer="bytes"))
    assert_same([{"x": batch} for batch in once], [{"x": batch} for batch in again])
    assert [batch["weight"].tolist() for batch in once] == [[1, 1], [0, 1], [1, 0]]
    letters = np.concatenate([batch["text"][:, 1] for batch in once]) - once[0]["text"][0, 1]
    weights = np.concatenate([batch["weight"] for batch in once])
    assert letters[weights > 0].tolist() == [0, 1, 3, 4]
    halves = [list(batches(config, tokenizer="bytes", part=Part((p,), 2))) for p in (0, 1)]
    assert [b["weight"].tolist() for pair in zip(*halves, strict=True) for b in pair] == [
        *([1], [1], [0], [1], [1], [0])
    ]


def test_evaluation_of_regions_and_images():
    regions = FOUR["regions"] | {"batch_size": 12}
    made = list(batches(regions, tokenizer="bytes", limit=6))
    assert [batch["image"].shape[0] for batch in made] == [4, 4]
    assert made[1]["image"][2:].max() == 0  # two images are missing
    assert made[1]["weight"][6:].max() == 0  # and the second group has no row
    first, second = (list(batches(FOUR["image"], limit=4, seed=s)) for s in (0, 9))
    assert (first[0]["image"] == second[0]["image"]).all()  # not augmented
    assert (first[0]["patch_mask"] != second[0]["patch_mask"]).any()


def test_wrong_options_name_the_nearest():
    with pytest.raises(TypeError, match="no option 'max_lenn'; did you mean 'max_len'"):
        open_streams({"text": stream("text", "synthetic:text", 4, max_lenn=8)})
    with pytest.raises(TypeError, match="no option 'max_skips'; did you mean 'max_skip'"):
        open_streams({"text": stream("text", "synthetic:text", 4, max_skips=8)})
    with pytest.raises(TypeError, match="no option 'images'"):
        open_streams({"text": stream("text", "synthetic:text", 4, images=2)})
    with pytest.raises(ValueError, match="needs a tokenizer"):
        open_streams({"text": stream("text", "synthetic:text", 4)}, tokenizer=None)
    with pytest.raises(ValueError, match="beside batch_size=4, its rows, it needs images"):
        open_streams({"r": stream("regions", "synthetic:regions", 4, size=32, patch_size=8)})
    with pytest.raises(ValueError, match="images=3 does not divide among 2 groups"):
        open_streams({"r": FOUR["regions"] | {"images": 3}})


def test_streams_that_were_ended_start_no_thread_again():
    """One thread ends them while another is about to ask for the next batch."""
    streams = open_streams({"text": FOUR["text"]})
    next(streams)
    streams.close()
    next(streams)  # closed for a while: it goes on
    streams.end()
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the streams were ended"):
        next(streams)
    assert threading.active_count() == before
