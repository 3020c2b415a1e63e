"""Mixtures: shares, stages, epochs of each source, and the same batches on any number of hosts."""

import json
import types
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

from tests import loop_runs
from unified_fm.config import checks
from unified_fm.config.settings import Settings
from unified_fm.data import mixture
from unified_fm.data.batching import Part
from unified_fm.data.streams import Streams, batches, stream
from unified_fm.objectives.base import same_pair
from unified_fm.teachers import cache

LENGTHS = (1000, 50)  # records of two sources


def make(weights, lengths=LENGTHS, **options):
    stages = mixture.read(weights, len(lengths), "weights")
    return mixture.Mixture(lengths, stages, **({"batch": 8, "seed": 3, "shuffle": True} | options))


def sources_of(made, slots):
    return np.array([made.index(slot) >= made.lengths[0] for slot in slots], int)


def test_every_batch_has_the_shares():
    made = make([3, 1])
    assert sources_of(made, range(800)).reshape(100, 8).sum(1).tolist() == [2] * 100
    uneven = sources_of(make([0.37, 0.63]), range(8000)).reshape(100, 80).sum(1)
    assert uneven.sum() == pytest.approx(0.63 * 8000, abs=2)
    assert abs(uneven - 0.63 * 80).max() < 3


def test_each_source_has_epochs_of_its_own():
    made = make([3, 1])
    visits = [made.visit(slot) for slot in range(4400)]
    for number, (start, end) in enumerate([(0, 1000), (1000, 1050)]):
        own = [visit for visit in visits if start <= visit.index < end]
        whole = len(own) // (end - start)
        assert whole == (3, 22)[number]
        for epoch in range(whole):
            part = own[epoch * (end - start) : (epoch + 1) * (end - start)]
            assert sorted(visit.index for visit in part) == list(range(start, end))
            assert {visit.epoch for visit in part} == {epoch}
            assert {visit.among for visit in part} == {range(start, end)}
    orders = [[v.index for v in visits if v.index >= 1000][k : k + 50] for k in (0, 50)]
    assert orders[0] != orders[1]


def test_a_slot_is_a_function_of_seed_and_number_alone():
    made = make([(0, [3, 1]), (700, [1, 1])])
    run = [made.visit(slot) for slot in range(9000)]
    for slot in (8999, 5600, 5599, 4096, 0, 123):
        assert make([(0, [3, 1]), (700, [1, 1])]).visit(slot) == run[slot]
    assert [make([3, 1], seed=4).index(k) for k in range(9)] != [visit.index for visit in run[:9]]
    # Pinned: checkpoints of a mixture go on with the version that comes after this one.
    small = make([2, 1], (5, 3), batch=3)
    assert [small.index(slot) for slot in range(12)] == [6, 4, 0, 1, 2, 5, 3, 7, 3, 5, 2, 4]


def test_stages_begin_at_their_steps_and_epochs_go_on():
    made = make([(0, [1, 0]), (10, [1, 1]), (1000, [0, 1])])
    found = sources_of(made, range(9000))
    assert found[:80].sum() == 0
    assert found[80:8000].reshape(-1, 8).sum(1).tolist() == [4] * 990
    assert found[8000:].all()
    for slots in (0, 79, 80, 4176, 4177, 8000, 9000):
        second = int(found[:slots].sum())
        assert made.met(slots) == (slots - second, second)
    first = [made.visit(slot) for slot in range(8000) if not found[slot]]
    assert [visit.epoch for visit in first] == [k // 1000 for k in range(len(first))]


def test_a_mixture_that_is_not_shuffled_takes_turns():
    made = make([1, 2], (3, 4), shuffle=False)
    assert [made.index(slot) for slot in range(9)] == [3, 0, 4, 5, 1, 6, 3, 2, 4]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([3, 1], (0.75, 0.25)),
        ([0.1, 0.2], (1 / 3, 2 / 3)),
        ([1234.567, 89.1], (0.93268, 0.06732)),
        ([1e-9, 1], (1 / 65537, 65536 / 65537)),  # never none at all
    ],
)
def test_weights_become_counts_of_a_block(weights, shares):
    [stage] = mixture.read(weights, 2, "weights")
    assert np.array(stage.counts) / sum(stage.counts) == pytest.approx(shares, abs=2e-5)
    assert sum(stage.counts) <= 2**16 + 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "a list of 2 numbers, .*found 1"),
        ([1, 2, 3], "found 3"),
        ([1, -1], "at least 0, found -1"),
        ([1, "2"], "at least 0, found '2'"),
        ([1, float("nan")], "found nan"),
        ([0, 0], "all weights of a stage are 0"),
        ([1, 0], "source 2 of 2 has the weight 0 in all stages"),
        ([(5, [1, 1])], r"begin at the steps \[5\]; the first begins at 0"),
        ([(0, [1, 1]), (0, [2, 1])], r"begin at the steps \[0, 0\]"),
        ([("10%", [1, 1])], "a stage that begins at '10%'"),
        ([(0, [1, 1]), 7], "found 7"),
        ([], "found 0"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture.read(weights, 2, "weights")


def test_a_hundred_million_records_need_no_table():
    made = make([3, 1], (10**8, 10**7))
    assert len({made.index(slot) for slot in range(2000)}) == 2000
    held = sum(array.nbytes for array in made._block(0, 0))
    assert held < 100_000 and not any(each._table.cache_info().currsize for each in made._orders)


# Streams


def write(path, count, word, bad=()):
    rows = ({"id": k, "text": "" if k in bad else f"{word}{k}"} for k in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


@pytest.fixture
def mixed(tmp_path):
    """A slice of one file and a split of another, in stages."""
    first, second = write(tmp_path / "a.jsonl", 40, "a"), write(tmp_path / "b.jsonl", 30, "b")
    return stream(
        *("text", [f"{first}[10%:]", f"{second}[:60% by hash(id)]"], 12),
        {"mlm": 1.0},
        max_len=8,
        mask_rate=0.0,
        weights=[(0, [1, 2]), (5, [3, 1])],
        threads=1,
    )


def opened(config, part=None, **options):
    return Streams({"t": config}, seed=1, tokenizer="bytes", part=part, **options)


def test_three_hosts_then_two_then_one_see_what_one_sees(mixed):
    alone = opened(mixed)
    whole = [(next(alone)["t"]["text"], alone.last_records()["t"]) for _ in range(11)]
    alone.close()
    assert len({index for _, indices in whole for index in indices}) > 36  # and from both sources
    state, step = None, 0
    for hosts, steps in ((3, 4), (2, 4), (1, 3)):  # each change falls into an epoch of each source
        running = [opened(mixed, Part((host,), hosts)) for host in range(hosts)]
        for streams in running:
            if state is not None:
                streams.restore(json.loads(json.dumps(state)))
        for _ in range(steps):
            texts = np.concatenate([next(streams)["t"]["text"] for streams in running])
            numbers = [index for streams in running for index in streams.last_records()["t"]]
            np.testing.assert_array_equal(texts, whole[step][0])
            assert numbers == whole[step][1]
            step += 1
        state = running[0].state()
        for streams in running:
            assert streams.state() == state
            streams.close()


def test_the_log_says_the_epochs_of_each_source(mixed, caplog):
    streams = opened(mixed)
    for _ in range(5):
        next(streams)
    found = streams.epochs(streams.state())
    count = streams.loaders["t"].order.lengths[1]
    assert found == {"epochs/t/0": 20 / 36, "epochs/t/1": 40 / count}
    [line] = [line for line in caplog.messages if "end of epoch 1" in line]
    assert f"; epochs of its sources: 0.56 of {mixed['source'][0]}, " in line
    streams.close()
    plain = opened(stream("text", "synthetic:text:20", 4, max_len=8))
    assert plain.epochs(plain.state()) == {}


def test_a_mixture_may_come_in_cycles(mixed):
    config = mixed | {"weights": [1, 2], "cycle": 1}
    loader = opened(config).loaders["t"]
    period = loader.records
    assert [loader.index_of(k) for k in range(9)] == [loader.index_of(period + k) for k in range(9)]
    once, thrice = loader.epochs(period), loader.epochs(3 * period)
    assert thrice == pytest.approx([3 * epochs for epochs in once])
    with pytest.raises(ValueError, match="repeats after cycle=1 epochs has no later stages"):
        opened(mixed | {"cycle": 1})


def test_another_record_of_the_same_source_stands_in(tmp_path):
    specs = [write(tmp_path / "a.jsonl", 40, "a"), write(tmp_path / "b.jsonl", 8, "b", bad=(3,))]
    config = stream("text", specs, 8, max_len=8, mask_rate=0.0, weights=[1, 1], max_skip=0.5)
    streams = opened(config)
    tokenizer = streams.loaders["t"].pipeline.tokenizer
    rows = np.concatenate([next(streams)["t"]["text"] for _ in range(4)])
    streams.close()
    assert Counter(tokenizer.decode(row).strip()[0] for row in rows) == {"a": 16, "b": 16}


def test_another_mixture_is_refused_on_resume(mixed, tmp_path):
    streams = opened(mixed)
    state = json.loads(json.dumps(streams.state()))
    assert state["streams"]["t"]["parts"] == list(streams.loaders["t"].order.lengths)
    swapped = mixed | {"source": mixed["source"][::-1]}
    with pytest.raises(ValueError, match=r"parts \[36, \d+\], and now it is \[\d+, 36\]"):
        opened(swapped).restore(state)
    opened(swapped).restore(state, allow=("parts",))
    del state["streams"]["t"]["parts"], state["streams"]["t"]["order"]  # of no mixture
    with pytest.raises(ValueError, match="with order None, and now it is mixture"):
        opened(mixed).restore(state)


def test_stages_that_have_moved_are_refused_on_resume(mixed):
    streams = opened(mixed)
    state = json.loads(json.dumps(streams.state()))
    moved = opened(mixed | {"weights": [(0, [1, 2]), (6, [3, 1])]})  # "50%" of a longer run
    with pytest.raises(ValueError, match=r"with stages \[\[0, .*\], \[60, .*and now it is \[\[0"):
        moved.restore(state)
    moved.restore(state, allow=("stages",))
    del state["streams"]["t"]["stages"]  # of an older version
    moved.restore(state)


def test_long_documents_are_rows_of_each_source_by_itself(tmp_path):
    """A weight counts rows, and no row has documents of two sources."""
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"]
    for file, count in zip(files, (3, 5, 2), strict=True):
        words = " ".join(f"{file.stem}{k}" for k in range(30))
        file.write_text(f"{json.dumps({'text': words})}\n" * count)
    sources = [f"jsonl:{files[0]}", f"jsonl:{files[1]}+jsonl:{files[2]}"]
    for long in ("chunks", "packed"):
        config = stream("text", sources, 8, max_len=40, weights=[3, 1], long=long)
        loader = opened(config | {"mask_rate": 0.0}).loaders["t"]
        alone = [opened(config | {"source": s, "weights": None}).loaders["t"] for s in sources]
        assert loader.order.lengths == tuple(each.records for each in alone)
        assert loader.records == sum(loader.order.lengths)
        decode = loader.pipeline.tokenizer.decode
        rows = [decode(loader.example(slot)["text"]) for slot in range(8)]
        assert sum("a" in row for row in rows) == 6
        assert not any("a" in row and ("b" in row or "c" in row) for row in rows)
        assert "of document 0" in loader.source.place(loader.order.lengths[0])


def test_an_evaluation_passes_once_over_all_sources(mixed):
    rows = sum(batch["weight"].sum() for batch in batches(mixed, tokenizer="bytes"))
    assert rows == opened(mixed).loaders["t"].records


def test_a_record_met_twice_in_a_batch_is_no_negative_of_itself(tmp_path):
    few = write(tmp_path / "few.jsonl", 3, "few")
    many = write(tmp_path / "many.jsonl", 100, "many")
    pairs = stream(
        *("image_text", [many, few, f"{few}[:2]"], 24),
        weights=[2, 1, 1],
        size=8,
        patch_size=8,
        num_masked=1,
        max_len=8,
    )
    loader = opened(pairs).loaders["t"]
    loader.source = _Pictured(loader.source)
    batch = loader.collate([loader.example(slot) for slot in range(24)])
    records = [loader.source[loader.index_of(slot)]["text"] for slot in range(24)]
    same = np.asarray(same_pair({"example_id": jnp.asarray(batch["example_id"])}, 24, "ids"))
    expected = np.array(records)[:, None] == np.array(records)
    np.testing.assert_array_equal(same, expected)
    assert (expected.sum(1) > 1).sum() == 12  # all of the two small sources


class _Pictured:
    """A source whose records have a picture, too."""

    def __init__(self, inner):
        self._inner = inner

    def __getitem__(self, index):
        return {**self._inner[index], "image": np.zeros((8, 8, 3), np.uint8)}


def settings_of(objectives, **changes):
    entry = {
        "pipeline": "image_text",
        "source": ["synthetic:pairs:9", "synthetic:pairs:8"],
        "batch_size": 8,
        "weights": [3, 1],
        "objectives": objectives,
        "size": 32,
        "patch_size": 16,
        "max_len": 16,
        "num_masked": 1,
    }
    model = {"name": "xfm", "image_size": 32}
    return Settings.of({"model": model, "streams": {"pairs": entry | changes}, "total_steps": 9})


def test_a_config_that_would_make_a_record_its_own_negative_is_refused():
    apart = {"itc": {"targets": "ids"}, "itm": {"exclude": "ids"}}
    checks.check(settings_of(apart))
    for name in apart:
        with pytest.raises(ValueError, match=f"its objective '{name}' takes every other row"):
            checks.check(settings_of(apart | {name: 1.0}))
    with pytest.raises(ValueError, match=r"config\.streams\.pairs\.weights is a list of 2 numbers"):
        checks.check(settings_of(apart, weights=[1, 2, 3]))


def test_a_source_that_is_named_twice_without_weights_is_refused_too():
    """Its parts are shuffled as one: a batch has a record twice, now and then."""
    apart = {"itc": {"targets": "ids"}, "itm": {"exclude": "ids"}}
    source, plain = ["synthetic:pairs:9", "synthetic:pairs:9[4:]"], {"itc": 1.0, "itm": 1.0}
    checks.check(settings_of(apart, weights=None, source=source))
    with pytest.raises(
        ValueError, match=r"pairs:9' and .*:9\[4:\]', which may share records: .* 'itc' takes"
    ):
        checks.check(settings_of(plain, weights=None, source="+".join(source)))
    halves = ["synthetic:pairs:9[:4]", "synthetic:pairs:9[4:]", "synthetic:pairs:8"]
    checks.check(settings_of(plain, weights=None, source=halves))


def test_a_teachers_cache_is_of_the_slots_at_which_stages_begin():
    """What a slot holds depends on them, and they move with the size of a batch."""

    def data(weights, batch):
        loader = types.SimpleNamespace(records=1050, order=make(weights, batch=batch))
        return cache.data_of(settings_of({"itc": {"targets": "ids"}}), "pairs", loader)

    staged = [(0, [3, 1]), (5, [1, 1])]
    assert data(staged, 8)["stages"] == [[0, 3072, 1024], [40, 2048, 2048]]
    assert data(staged, 8) != data(staged, 16)
    assert data([3, 1], 8) == data([3, 1], 16)


@pytest.mark.slow
def test_a_run_on_a_mixture_resumes_to_the_same_bits_and_logs_the_epochs(run, tmp_path):
    texts = [f"{write(tmp_path / 'a.jsonl', 60, 'a')}[:90%]", write(tmp_path / "b.jsonl", 9, "b")]
    changes = {
        "streams__text__source": texts,
        "streams__text__weights": [[0, [3, 1]], [5, [1, 1]]],
        "optimizer__schedule": {"name": "constant"},
    }
    run(steps=4, **changes)
    resumed, whole = run(steps=12, **changes), run("whole", steps=12, **changes)
    loop_runs.same_params(resumed, whole)
    found = [
        [(line["epochs/text/0"], line["epochs/text/1"]) for line in loop_runs.lines(workdir)]
        for workdir in (resumed, whole)
    ]
    assert found[0] == found[1]
    assert found[0][4] == (30 / 54, 10 / 9)
    assert found[0][11] == ((30 + 28) / 54, (10 + 28) / 9)
