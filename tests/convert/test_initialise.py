"""A model starts from checkpoints: by part, resized, strict about what stays fresh."""

import numpy as np
import pytest

from tests.convert.test_parity import read
from tests.convert.test_xfm import GOLDEN
from unified_fm.convert import initialise
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.table import export_params, flatten, import_params, unflatten
from unified_fm.convert.tables import xfm


@pytest.fixture(scope="module")
def published():
    """The published tiny X-FM: width 32, 4 heads, a 4 x 4 grid."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        arrays = {k.removeprefix("params/"): file[k] for k in file.files if k.startswith("params/")}
    return import_params(xfm.TABLE, arrays, heads=4)


def fresh(params, **shapes):
    """A tree of zeros in the same shapes, but for those given by path."""
    flat = {path: np.zeros(leaf.shape, np.float32) for path, leaf in flatten(params).items()}
    flat |= {path.replace("__", "/"): np.zeros(shape) for path, shape in shapes.items()}
    return unflatten(flat)


def test_the_whole_model_from_one_file(published, tmp_path):
    write_safetensors(tmp_path / "x.safetensors", export_params(xfm.TABLE, published))
    tree = initialise.initialise(fresh(published), f"xfm:{tmp_path}/x.safetensors")
    theirs, ours = flatten(published), flatten(tree)
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)


def test_relative_tables_are_resized_to_the_models_grid(published, tmp_path):
    write_safetensors(tmp_path / "x.safetensors", export_params(xfm.TABLE, published))
    shapes = {f"vision/layer_0{n}/relative_position_bias": (11**2 + 3, 4) for n in (0, 1)}
    tree = initialise.initialise(fresh(published, **shapes), f"xfm:{tmp_path}/x.safetensors")
    table = tree["vision"]["layer_01"]["relative_position_bias"]
    known = published["vision"]["layer_01"]["relative_position_bias"]
    assert table.shape == (124, 4)
    np.testing.assert_array_equal(table[-3:], known[-3:])
    centre = table[:-3].reshape(11, 11, 4)[5, 5]  # offset 0 stays offset 0
    np.testing.assert_allclose(centre, known[:-3].reshape(7, 7, 4)[3, 3], atol=1e-6)


def test_parts_come_from_their_own_sources(tmp_path):
    """Text from RoBERTa, vision from BEiT; the rest of the model keeps its values."""
    _, roberta, _, _ = read("roberta_small")
    _, beit, _, _ = read("beit_small")
    write_safetensors(tmp_path / "text.safetensors", roberta)
    write_safetensors(tmp_path / "vision.safetensors", beit)
    init = {
        "text": f"roberta:{tmp_path}/text.safetensors",
        "vision": f"beit2:{tmp_path}/vision.safetensors",
    }
    loaded = [
        initialise.families.load(family, tmp_path / f"{part}.safetensors", heads=2)
        for part, family in (("text", "roberta"), ("vision", "beit2"))
    ]
    model = fresh(loaded[0] | loaded[1] | {"itm_head": {"out": {"bias": np.ones(2)}}})
    tree = flatten(initialise.initialise(model, init, heads=2))
    for path, leaf in flatten(loaded[0] | loaded[1]).items():
        np.testing.assert_array_equal(tree[path], leaf)
    np.testing.assert_array_equal(tree["itm_head/out/bias"], [0, 0])


def test_what_stays_fresh_or_does_not_fit_is_said(tmp_path):
    _, params, _, _ = read("roberta_small")
    source = f"roberta:{tmp_path}/text.safetensors"
    write_safetensors(tmp_path / "text.safetensors", params)
    tree = initialise.families.load("roberta", tmp_path / "text.safetensors", heads=2)
    more = fresh(tree, text__layer_02__mlp_in__bias=(32,))
    with pytest.raises(ConversionError, match=r"lacks 1 parameters[^.]*text/layer_02/mlp_in/bias"):
        initialise.initialise(more, {"text": source}, heads=2)
    initialise.initialise(more, {"text": source}, heads=2, allow=["text/layer_02/.*"])
    larger = fresh(tree, text_embed__word__embedding=(99, 16))
    with pytest.raises(ConversionError, match=r"has \(61, 16\), the model \(99, 16\)"):
        initialise.initialise(larger, {"text": source}, heads=2)
    with pytest.raises(ConversionError, match="init of 'txt'; possible: all, text, vision"):
        initialise.initialise(tree, {"txt": source}, heads=2)
