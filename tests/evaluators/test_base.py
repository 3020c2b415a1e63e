import collections
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluators import worlds
from unified_fm import plugins
from unified_fm.evaluators import _batches, _passes, base, grounding, imlm, itm, retrieval
from unified_fm.evaluators.base import Metric
from unified_fm.report import table as results_table


def test_share_has_the_binomial_error():
    metric = base.share("right", [True, True, True, False])
    assert metric.value == 0.75
    assert metric.error == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert metric.unit == "%"


def test_error_of_several_answers_per_example_counts_examples():
    # Both answers of an image are always equal: eight answers are worth four examples.
    hits = [[1, 1], [0, 0], [1, 1], [0, 0]]
    assert base.share("right", hits).error == pytest.approx(np.sqrt(0.25 / 4))


def test_mean_error_is_deviation_over_root_of_count():
    metric = base.mean("IoU", [0.0, 0.5, 1.0], chance=0.1, chance_is="a box")
    assert metric.value == 0.5
    assert metric.error == pytest.approx(np.std([0, 0.5, 1]) / np.sqrt(3))
    assert (metric.chance, metric.chance_is) == (0.1, "a box")


def test_in_batches_pads_the_last_batch_and_compiles_once():
    shapes = []

    def apply(fn, params, batch, rngs=None):
        shapes.append(batch["x"].shape)
        return fn(params, batch)

    rows = {"x": np.arange(7)}
    result = _batches.in_batches(
        apply, lambda net, batch: {"y": jnp.array(batch["x"]) * net}, 2, rows, 3
    )
    np.testing.assert_array_equal(result["y"], [0, 2, 4, 6, 8, 10, 12])
    assert shapes == [(3,), (3,), (3,)]


def test_in_batches_takes_shared_images_by_row():
    def apply(fn, params, batch, rngs=None):
        return fn(None, batch)

    images = np.array([[10], [20]])
    rows = {"image_row": np.array([1, 0, 1])}
    result = _batches.in_batches(
        apply, lambda net, batch: batch["image"], None, rows, 2, images=images
    )
    np.testing.assert_array_equal(result, [[20], [10], [20]])


def test_table_shows_value_error_and_chance():
    table = results_table.format_table(
        [
            Metric("retrieval/R@1", 0.942, 0.01, "random order", 0.0113, "%"),
            Metric("text/cross-entropy", 5.3931, 5.4761, "unigram", 0.02, "", "lower"),
            Metric("pairs/itc", 0.25),
        ]
    )
    assert table.splitlines() == [
        "metric                       value  chance  chance is",
        "------------------  --------------  ------  ------------",
        "retrieval/R@1        94.2 +- 1.1 %   1.0 %  random order",
        "text/cross-entropy  5.393 +- 0.020   5.476  unigram",
        "pairs/itc                    0.250       -",
    ]


def test_run_all_prefixes_names_and_collects_examples():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Fake(base.Evaluator):
        def run(self, apply, params):
            self.examples.append("shown")
            yield Metric("accuracy", params)

    results = base.run_all({"itm": Fake()}, None, 0.5)
    assert results.metrics == [Metric("itm/accuracy", 0.5)]
    assert results.examples == {"itm": ["shown"]}


class Counting(worlds.Source):
    """The eight records; says how often each was read."""

    read: ClassVar[collections.Counter] = collections.Counter()

    def __getitem__(self, index):
        Counting.read[index] += 1
        return super().__getitem__(index)


Source = Counting


def together(passes=None, **options):
    tokenizer = worlds.make_tokenizer()
    given = {"options": worlds.OPTIONS | options, "tokenizer": tokenizer, "batch_size": 3}
    given |= {"source": "tests.evaluators.test_base:eight", "passes": passes or base.Passes()}
    made = {
        "itm": itm.Evaluator(**given),
        "imlm": imlm.Evaluator(**given),
        "grounding": grounding.Evaluator(**given),
        "retrieval": retrieval.Evaluator(**given, candidates=8),
    }
    return made, worlds.Apply(worlds.Oracle(tokenizer))


def test_evaluators_of_one_source_decode_it_once():
    evaluators, apply = together()
    Counting.read.clear()
    shared = base.run_all(evaluators, apply, {})
    assert Counting.read == dict.fromkeys(range(8), 1)
    alone = [
        metric
        for name in evaluators
        for metric in base.run_all({name: together()[0][name]}, apply, {}).metrics
    ]
    assert shared.metrics == alone
    # Nothing of it is kept for the next evaluation, which may be hours away.
    base.run_all({"itm": evaluators["itm"]}, apply, {})
    assert Counting.read == dict.fromkeys(range(8), 6)


def test_a_batch_is_of_as_many_rows_as_all_devices_share():
    evaluators, _ = together(base.Passes(shards=4))
    assert evaluators["itm"].rows == 4
    evaluators, apply = together(base.Passes(shards=8))
    shapes = set()

    def seen(fn, params, batch, rngs=None):
        shapes.update(len(array) for name, array in batch.items() if name == "image")
        return apply(fn, params, batch)

    found = base.run_all(evaluators, seen, {}).metrics
    assert shapes == {8}  # 3 are asked for
    assert found == base.run_all(together()[0], apply, {}).metrics


def test_other_options_are_another_pass():
    passes = base.Passes()
    evaluators, apply = together(passes)
    other, _ = together(passes, max_len=10)
    Counting.read.clear()
    base.run_all({"a": evaluators["itm"], "b": other["itm"]}, apply, {})
    assert Counting.read == dict.fromkeys(range(8), 2)


def test_parts_of_all_processes_are_all_records_in_order():
    for total, count in ((10, 3), (2, 4), (0, 2), (8, 1)):
        parts = [_passes.Processes(index, count).part(total) for index in range(count)]
        assert [row for part in parts for row in part] == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= -(-total // count)


def test_an_evaluator_that_lacks_a_part_of_the_contract_is_refused():
    with pytest.raises(TypeError, match=r"lacks .*check.*unified_fm.evaluators.base.Evaluator"):
        plugins.load("evaluators", "tests.evaluators.lacking")
