"""Which records are for training, validation and test: by source, or by the hash of their ids."""

import numpy as np
import pytest

from unified_fm.probing import splits
from unified_fm.probing.cache import Rows
from unified_fm.tasks.probe_sets import ProbeSet


def rows(count, first=0, classes=3):
    numbers = np.arange(count)
    labels = [str(n % classes) for n in numbers]
    ids = [f"{first + n}" for n in numbers]
    return Rows(np.zeros((count, 2), np.float32), labels, ids, numbers)


def test_official_splits_stay_as_they_are():
    row = ProbeSet(name="x", train="a", validation="b", test="c")
    sources = {"a": rows(5), "b": rows(3, 100), "c": rows(4, 200)}
    found = splits.split(row, sources)
    assert [len(part) for part in found] == [5, 3, 4]
    assert found.known.ids == [*sources["a"].ids, *sources["b"].ids]


def test_without_splits_the_hash_of_an_id_decides_and_order_does_not():
    row = ProbeSet(name="x", train="a")
    found = splits.split(row, {"a": rows(1000)})
    sizes = [len(part) for part in found]
    assert sum(sizes) == 1000
    assert sizes == pytest.approx([700, 100, 200], abs=40)
    assert not {*found.train.ids} & {*found.test.ids}
    backwards = splits.split(row, {"a": rows(1000).take(np.arange(1000)[::-1])})
    assert {*backwards.test.ids} == {*found.test.ids}
    assert {*backwards.validation.ids} == {*found.validation.ids}
    given = splits.split(ProbeSet(name="x", train="a", test="b"), {"a": rows(1000), "b": rows(9)})
    assert {*given.validation.ids} == {*found.validation.ids}  # training never changes sides


def test_thirty_of_each_class_and_the_rest():
    row = ProbeSet(name="x", train="a", per_class=30)
    found = splits.split(row, {"a": rows(300)})
    labels = [*found.train.labels, *found.validation.labels]
    assert {label: labels.count(label) for label in labels} == {"0": 30, "1": 30, "2": 30}
    assert len(found.test) == 210
    assert row.split.startswith("30 of each class by hash are for training")


def test_a_part_without_a_row_is_refused_with_what_to_do():
    row = ProbeSet(name="own", train="a", test="b")
    with pytest.raises(ValueError, match=r"of 2 records none is for validation .*--validation="):
        splits.split(row, {"a": rows(2), "b": rows(3)})
