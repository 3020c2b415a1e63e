"""The conversion engine on a table small enough to read, and its error messages."""

import numpy as np
import pytest

from unified_fm.convert import transforms
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.rows import Report, Row, Tied, Unused
from unified_fm.convert.table import export_params, flatten, import_params

TABLE = [
    Row("embed/kernel", "[model.]embed.{weight|gamma}"),
    Row("text/layer_{i}/query/kernel", "[model.]h.{i}.q.weight", transforms.SPLIT),
    Row("text/layer_{i}/table", ("[model.]h.{i}.table", "shared.table")),
    Row("head/kernel", "head.weight", transforms.LINEAR, "head"),
    Row("head/bias", "head.bias", transforms.SAME, "head"),
    Tied("embed/kernel", "decoder.weight"),
    Unused("[model.]h.{i}.count", "[model.]h.{i}.table", lambda table: np.array([len(table)])),
    Unused("old.ids"),
]


def foreign(**changes):
    """Two layers of width 4; changes with value None take a name away."""
    arrays = {
        "model.embed.weight": np.arange(12.0).reshape(3, 4),
        "model.h.0.q.weight": np.arange(16.0).reshape(4, 4),
        "model.h.1.q.weight": -np.arange(16.0).reshape(4, 4),
        "model.h.0.table": np.array([1.0, 2.0]),
        "model.h.1.table": np.array([3.0, 4.0]),
        "head.weight": np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]),
        "head.bias": np.array([1.0, 2.0]),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()} | changes
    return {name: array for name, array in arrays.items() if array is not None}


def test_shapes_and_values():
    tree = import_params(TABLE, foreign(), heads=2)
    assert {path: leaf.shape for path, leaf in flatten(tree).items()} == {
        "embed/kernel": (3, 4),
        "text/layer_00/query/kernel": (4, 2, 2),
        "text/layer_01/query/kernel": (4, 2, 2),
        "text/layer_00/table": (2,),
        "text/layer_01/table": (2,),
        "head/kernel": (4, 2),
        "head/bias": (2,),
    }
    # Output row 2 of a PyTorch weight is head 1, slot 0 of ours.
    np.testing.assert_array_equal(
        tree["text"]["layer_00"]["query"]["kernel"][:, 1, 0], [8.0, 9.0, 10.0, 11.0]
    )
    np.testing.assert_array_equal(tree["head"]["kernel"][0], [1.0, 5.0])


def test_round_trip_is_byte_identical_and_fills_what_has_no_counterpart():
    report = Report()
    out = export_params(TABLE, import_params(TABLE, foreign(), heads=2), report=report)
    for name, array in foreign().items():
        assert out[name].tobytes() == array.tobytes() and out[name].shape == array.shape
    assert set(out) - set(foreign()) == {"decoder.weight", "model.h.0.count", "model.h.1.count"}
    assert report.tied == ["decoder.weight"]
    assert report.filled == ["model.h.0.count", "model.h.1.count"]


def test_spellings_and_absent_prefix_give_the_same_tree():
    renamed = {name.removeprefix("model."): array for name, array in foreign().items()}
    renamed["embed.gamma"] = renamed.pop("embed.weight")
    ours, theirs = (flatten(import_params(TABLE, f, heads=2)) for f in (foreign(), renamed))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)


def test_two_spellings_of_one_array_are_refused():
    with pytest.raises(ConversionError, match="two spellings of the same array"):
        import_params(TABLE, foreign(**{"embed.weight": np.ones((3, 4))}), heads=2)


def test_a_shared_array_is_copied_to_every_layer():
    changes = {"model.h.0.table": None, "model.h.1.table": None}
    shared = np.array([9.0, 8.0], np.float32)
    tree = import_params(TABLE, foreign(**changes, **{"shared.table": shared}), heads=2)
    tables = [tree["text"][layer]["table"] for layer in ("layer_00", "layer_01")]
    np.testing.assert_array_equal(tables, [[9.0, 8.0], [9.0, 8.0]])
    assert not np.shares_memory(*tables)


def test_missing_and_unexpected_names_are_listed_with_the_nearest():
    changes = {"model.h.1.q.weight": None, "model.h.1.qq.weight": np.ones((4, 4))}
    with pytest.raises(ConversionError) as error:
        import_params(TABLE, foreign(**changes), heads=2)
    assert str(error.value).splitlines() == [
        "names do not fit the table: 1 missing, 1 unexpected",
        "  missing    model.h.1.q.weight (text/layer_01/query/kernel); "
        "nearest: model.h.1.qq.weight",
        "  unexpected model.h.1.qq.weight; nearest: model.h.1.q.weight",
        "names that may differ can be given as regexes in `allow`",
    ]


def test_allow_covers_both_sides_and_is_reported():
    report = Report()
    changes = {"model.h.1.q.weight": None, "extra": np.ones(1), "old.ids": np.ones(1)}
    tree = import_params(
        TABLE, foreign(**changes), heads=2, allow=["text/layer_01/.*", "extra"], report=report
    )
    assert "query" not in tree["text"]["layer_01"]
    assert report.allowed == ["model.h.1.q.weight", "extra"]
    assert report.unused == ["old.ids"]


def test_a_part_is_there_as_a_whole_or_not_at_all():
    without = foreign(**{"head.weight": None, "head.bias": None})
    assert "head" not in import_params(TABLE, without, heads=2)
    with pytest.raises(ConversionError, match=r"missing    head\.bias"):
        import_params(TABLE, foreign(**{"head.bias": None}), heads=2)


def test_expected_layers_find_a_missing_last_layer():
    without = foreign(**{"model.h.1.q.weight": None, "model.h.1.table": None})
    assert list(import_params(TABLE, without, heads=2)["text"]) == ["layer_00"]
    with pytest.raises(ConversionError, match="2 missing, 0 unexpected"):
        import_params(TABLE, without, heads=2, layers={"text": 2})
    with pytest.raises(ConversionError, match="0 missing, 2 unexpected"):
        import_params(TABLE, foreign(), heads=2, layers={"text": 1})


def test_a_copy_that_is_not_tied_is_refused_unless_allowed():
    changes = {"decoder.weight": np.ones((3, 4), np.float32)}
    with pytest.raises(ConversionError, match="trained untied"):
        import_params(TABLE, foreign(**changes), heads=2)
    report = Report()
    import_params(TABLE, foreign(**changes), heads=2, allow=["decoder.*"], report=report)
    assert report.allowed == ["decoder.weight"]


@pytest.mark.parametrize(
    ("changes", "heads", "message"),
    [
        ({}, None, "number of heads of 'text' cannot be read off"),
        ({}, 3, "width 4 is not a multiple of 3 heads"),
        ({"model.h.0.q.weight": np.ones(4)}, 2, "expected 2 dimensions, found shape"),
        ({"head.bias": np.array([1, 2])}, 2, "floating point numbers, found int64"),
    ],
)
def test_wrong_arrays_are_named(changes, heads, message):
    with pytest.raises(ConversionError, match=message):
        import_params(TABLE, foreign(**changes), heads=heads)


def test_export_is_strict_too():
    tree = import_params(TABLE, foreign(), heads=2)
    tree["text"]["layer_01"]["extra"] = tree["text"]["layer_01"].pop("table")
    with pytest.raises(ConversionError, match="1 missing, 1 unexpected"):
        export_params(TABLE, tree)
    out = export_params(TABLE, tree, allow=["text/layer_01/(extra|table)"])
    assert "model.h.1.table" not in out and "model.h.0.table" in out
