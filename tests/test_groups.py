import types

import jax
import numpy as np
import pytest

from unified_fm import groups, setup, sharding, train
from unified_fm.config import file


def test_a_row_is_taken_from_the_group_of_who_asks():
    x = np.arange(8) * 10  # two groups of four
    index = np.array([3, 0, 0, 1])  # two ask in each
    assert groups.take(x, index).tolist() == [30, 0, 0, 10]
    assert groups.take(jax.numpy.asarray(x), index, 2).tolist() == [30, 0, 40, 50]
    assert groups.cut(x, 2).tolist() == [[0, 10, 20, 30], [40, 50, 60, 70]]


def test_S4_a_group_over_several_shards_is_refused_with_both_ways_out():
    mesh = sharding.make_mesh(data=4, fsdp=2, devices=jax.devices()[:8])
    sharding.check_groups(mesh, "pairs", 8)
    sharding.check_groups(mesh, "pairs", 32, accumulate=2)
    sharding.check_groups(sharding.make_mesh(devices=jax.devices()[:1]), "pairs", 1)
    with pytest.raises(ValueError, match="groups=1 do not divide among the 8 parts") as refused:
        sharding.check_groups(mesh, "pairs", 1)
    for way in ("config.streams.pairs.groups to a multiple of 8", "negatives", "fewer parts"):
        assert way in str(refused.value)
    with pytest.raises(ValueError, match="of 3 micro-batches"):
        sharding.check_groups(mesh, "pairs", 8, accumulate=3)


def test_S4_a_run_says_at_its_start_whose_rows_are_negatives(monkeypatch, caplog, tmp_path):
    """Here with 8 groups of 2 in place of one of 16."""

    class Enough(Exception):
        pass

    def agree(*_):
        raise Enough

    changes = [f"streams.{name}.batch_size=16" for name in ("text", "image", "pairs", "regions")]
    changes += ["streams.pairs.groups=8", "streams.regions.images=16"]
    monkeypatch.setattr(setup.Prepared, "open_streams", lambda ready: types.SimpleNamespace())
    caplog.set_level("INFO", logger="unified_fm")
    with pytest.raises(Enough):
        stop = types.SimpleNamespace(agree=agree)
        train._start(file.load("xfm_base:smoke", changes), tmp_path, stop, None, None, None)
    assert [text for text in caplog.messages if "negatives" in text] == [
        f"stream {name}: itm draws its negatives from the {rows} rows of a group; another number "
        f"of groups (streams.{name}.groups, now {count}) changes them"
        for name, rows, count in (("pairs", 2, 8), ("regions", 16, 1))
    ]
