"""One way in: names, parts, grids, what is new and what is left over, whatever the source."""

import ast
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.test_parity import read
from tests.convert.test_xfm import GOLDEN
from unified_fm import plugins
from unified_fm.checkpoint import start, store
from unified_fm.convert import families
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.table import export_params, flatten, import_params, unflatten
from unified_fm.convert.tables import xfm
from unified_fm.models.config import EncoderConfig


@pytest.fixture(scope="module")
def published():
    """The published tiny X-FM: width 32, 4 heads, a 4 x 4 grid."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        arrays = {k.removeprefix("params/"): file[k] for k in file.files if k.startswith("params/")}
    return import_params(xfm.TABLE, arrays, heads=4)


@pytest.fixture(scope="module")
def saved(published, tmp_path_factory):
    """It in both forms: a checkpoint of ours, and the published layout."""
    root = tmp_path_factory.mktemp("saved")
    store.save_params(root / "ours", published)
    write_safetensors(root / "x.safetensors", export_params(xfm.TABLE, published))
    return root


def shapes(params, **others):
    """{path: shape} of a tree, but for those given by path."""
    flat = {path: leaf.shape for path, leaf in flatten(params).items()}
    return flat | {path.replace("__", "/"): shape for path, shape in others.items()}


def sources(saved):
    """One of ours, written in every way, and a foreign one."""
    ours = str(saved / "ours")
    return [ours, f"{ours}/0", {"path": ours}, {"all": ours}, f"xfm:{saved}/x.safetensors"]


@pytest.mark.slow
def test_the_whole_model_from_every_kind_of_source(published, saved):
    for init in sources(saved):
        start.check(init, "init")
        found = start.read(init, shapes(published))
        assert (found.new, found.left, found.resized) == ([], [], {})
        assert found.arrays.keys() == flatten(published).keys()
        for path, leaf in flatten(published).items():
            assert found.arrays[path].tobytes() == leaf.tobytes(), path


@pytest.mark.slow
def test_relative_tables_are_resized_to_the_models_grid(published, saved):
    tables = [f"vision/layer_0{n}/relative_position_bias" for n in (0, 1)]
    wanted = shapes(published) | dict.fromkeys(tables, (11**2 + 3, 4))
    known = published["vision"]["layer_01"]["relative_position_bias"]
    for init in sources(saved):
        found = start.read(init, wanted)
        assert found.resized == dict.fromkeys(tables, (52, 4))
        table = found.arrays[tables[1]]
        assert table.shape == (124, 4)
        np.testing.assert_array_equal(table[-3:], known[-3:])
        centre = table[:-3].reshape(11, 11, 4)[5, 5]  # offset 0 stays offset 0
        np.testing.assert_allclose(centre, known[:-3].reshape(7, 7, 4)[3, 3], atol=1e-6)


def test_positions_of_a_run_are_resized_too():
    position = np.arange(10.0, dtype=np.float32).reshape(1, 5, 2)
    found = start.fitted({"vision/position": position}, {"vision/position": (1, 17, 2)})
    assert found.resized == {"vision/position": (1, 5, 2)}
    np.testing.assert_array_equal(found.arrays["vision/position"][:, 0], position[:, 0])


@pytest.mark.slow
def test_parts_come_from_their_own_sources(tmp_path):
    """Text from RoBERTa, vision from a run of ours with a text side; the rest stays fresh."""
    _, roberta, _, _ = read("roberta_small")
    _, beit, _, _ = read("beit_small")
    write_safetensors(tmp_path / "text.safetensors", roberta)
    write_safetensors(tmp_path / "vision.safetensors", beit)
    text = families.load("roberta", tmp_path / "text.safetensors", heads=2)
    vision = families.load("beit2", tmp_path / "vision.safetensors", heads=2)
    store.save_params(tmp_path / "run", vision | {"text": {"norm": {"bias": np.ones(3)}}})
    init = {
        "text": f"roberta:{tmp_path}/text.safetensors",
        "vision": str(tmp_path / "run"),
        "heads": 2,
    }
    start.check(init, "init")
    # A model with BEiT's own image head would find nothing for it: no part names it.
    vision = {name: tree for name, tree in vision.items() if name in start.PARTS["vision"]}
    fresh = jax.tree.map(jnp.zeros_like, text | vision | {"itm_head": {"bias": np.ones(2)}})
    tree = start.start(fresh, init)
    for path, leaf in flatten(text | vision).items():
        np.testing.assert_array_equal(flatten(tree)[path], leaf, err_msg=path)
    assert tree["itm_head"]["bias"] is fresh["itm_head"]["bias"]


def test_what_does_not_fit_is_said_whatever_the_source(tmp_path):
    _, params, _, _ = read("roberta_small")
    write_safetensors(tmp_path / "text.safetensors", params)
    ours = families.load("roberta", tmp_path / "text.safetensors", heads=2)
    store.save_params(tmp_path / "ours", ours)
    more = shapes(ours, text__layer_02__mlp_in__bias=(32,))
    larger = shapes(ours, text_embed__word__embedding=(99, 16))
    for text in (f"roberta:{tmp_path}/text.safetensors", str(tmp_path / "ours")):
        init = {"text": text, "heads": 2}
        with pytest.raises(ValueError, match=r"this model .*\n  text/layer_02/mlp_in/bias \(32,"):
            start.read(init, more)
        found = start.read({**init, "allow": ["text/layer_02/.*"]}, more)
        assert found.new == ["text/layer_02/mlp_in/bias"]
        with pytest.raises(ValueError, match=r"\(61, 16\) in the file, \(99, 16\) wanted"):
            start.read(init, larger)
        found = start.read({**init, "allow": [".*/word/embedding"]}, larger)
        assert found.new == ["text_embed/word/embedding"]


@pytest.mark.slow
def test_what_is_left_over_is_refused_of_ours_and_listed_of_others(published, saved):
    less = {path: s for path, s in shapes(published).items() if not path.startswith("box_head")}
    with pytest.raises(ValueError, match=r"box_head/dense/bias .*in the file, not in the model"):
        start.read(str(saved / "ours"), less)
    found = start.read({"path": str(saved / "ours"), "allow": ["box_head/.*"]}, less)
    assert len(found.left) == 6 and found.left[0] == "box_head/dense/bias"
    assert start.read(f"xfm:{saved}/x.safetensors", less).left == found.left
    said = str(found)
    assert said.startswith(f"{len(less)} parameters start from it\n6 left over:\n  box_head/dense")
    assert "new" not in said and "resized" not in said


@pytest.mark.slow
def test_a_decoder_is_copied_from_fusion_layers_and_a_head_stays_fresh(published, saved):
    layers = {p: s for p, s in shapes(published).items() if p.startswith("fusion/layer_")}
    decoder = {p.replace("fusion", "decoder"): s for p, s in layers.items()}
    wanted = {**shapes(published, itm_head__out__bias=(7,)), **decoder}
    init = {
        "path": str(saved / "ours"),
        "copy": [("fusion/(layer_.*)", r"decoder/\1")],
        "fresh": ["itm_head/.*"],
    }
    start.check(init, "init")
    found = start.read(init, wanted)
    assert {path.split("/")[0] for path in found.new} == {"itm_head"}  # although it is there
    for path in layers:
        here = found.arrays[path.replace("fusion", "decoder")]
        np.testing.assert_array_equal(here, flatten(published)[path])
    with pytest.raises(ValueError, match=r"init.copy: no parameter of the source matches 'fusoin"):
        start.read({**init, "copy": [("fusoin/(.*)", r"decoder/\1")]}, wanted)
    with pytest.raises(ValueError, match=r"fresh: no parameter of the model matches 'itn_head"):
        start.read({**init, "fresh": ["itn_head/.*"]}, wanted)


def test_a_copy_does_not_replace_what_the_source_has():
    arrays = {"a/x": np.zeros(2), "b/x": np.ones(2)}
    wanted = {"a/x": (2,), "b/x": (2,), "c/x": (2,)}
    copy = [("a/(.*)", r"b/\1"), ("a/(.*)", r"c/\1")]
    found = start.fitted(arrays, wanted, copy=copy)
    assert found.arrays["b/x"].sum() == 2 and found.arrays["c/x"].sum() == 0


def test_a_copy_reaches_what_is_fresh_otherwise_but_the_source_s_own_does_not():
    arrays = {"pooler/bias": np.ones(2), "head/pooler/bias": np.zeros(2), "head/out": np.zeros(3)}
    wanted = {"head/pooler/bias": (2,), "head/out": (3,)}
    copy = [("pooler/(.*)", r"head/pooler/\1")]
    found = start.fitted(arrays, wanted, copy=copy, fresh=["head/.*"], leave=["pooler/.*"])
    assert found.arrays.keys() == {"head/pooler/bias"} and found.new == ["head/out"]
    assert found.arrays["head/pooler/bias"].sum() == 2


def test_the_first_pair_renames_and_what_stays_fresh_stays_on_its_device(tmp_path, caplog):
    store.save_params(tmp_path / "run", unflatten({"vision/layer_00/bias": np.ones(2)}))
    fresh = {"encoder": {"layer_00": {"bias": jnp.zeros(2)}}, "head": {"bias": jnp.full(3, 7.0)}}
    rename = [("vision/(layer_.*)", r"encoder/\1"), ("vision/.*", "nothing")]
    init = {"path": str(tmp_path / "run"), "rename": rename, "allow": ["head/.*"]}
    with caplog.at_level(logging.INFO):
        tree = start.start(fresh, init)
    np.testing.assert_array_equal(tree["encoder"]["layer_00"]["bias"], [1, 1])
    assert tree["head"]["bias"] is fresh["head"]["bias"]
    assert "1 parameters start from it\n1 new, initialised here:\n  head/bias" in caplog.text


def test_heads_are_the_models_where_nothing_else_tells_them(tmp_path):
    _, params, _, _ = read("roberta_small")
    write_safetensors(tmp_path / "text.safetensors", params)
    wanted = shapes(families.load("roberta", tmp_path / "text.safetensors", heads=2))
    found = start.read(f"roberta:{tmp_path}/text.safetensors", wanted)
    assert found.arrays["text/layer_00/self_attn/query/kernel"].shape == (16, 2, 8)


def test_a_part_may_be_copied_to_another_and_the_fresh_of_one_part_is_no_fault_of_the_other():
    arrays = {"text/layer_00/bias": np.ones(2), "vision/norm/bias": np.ones(3)}
    wanted = {name: leaf.shape for name, leaf in arrays.items()} | {"decoder/layer_00/bias": (2,)}
    found = start.fitted(
        arrays, wanted, part="text", copy=[("text/(layer_.*)", r"decoder/\1")], partial=True
    )
    assert sorted(found.arrays) == ["decoder/layer_00/bias", "text/layer_00/bias"]
    assert found.new == ["vision/norm/bias"]


def test_every_source_may_have_its_own_copies_and_fresh_paths(tmp_path):
    for part in ("text", "vision"):
        store.save_params(tmp_path / part, {part: {"norm": {"bias": np.ones(2)}}})
    wanted = dict.fromkeys(("text/norm/bias", "vision/norm/bias", "more/text", "more/vision"), (2,))
    init = {
        **{part: str(tmp_path / part) for part in ("text", "vision")},
        "copy": [("(text)/norm/bias", r"more/\1"), ("(vision)/norm/bias", r"more/\1")],
        "fresh": ["vision/norm/.*"],
    }
    found = start.read(init, wanted)
    assert sorted(found.arrays) == ["more/text", "more/vision", "text/norm/bias"]
    assert found.new == ["vision/norm/bias"]


BERT = {"model_type": "bert", "hidden_act": "gelu_new", "layer_norm_eps": 1e-12}
VIT = {"model_type": "vit", "hidden_act": "gelu", "layer_norm_eps": 1e-6}


@pytest.mark.parametrize(
    ("init", "lines"),
    [
        ("bert:{}", ["gelu = 'tanh', model.text.gelu is 'erf'"]),
        ({"text": "bert:{}"}, ["gelu = 'tanh', model.text.gelu is 'erf'"]),
        ({"vision": "vit:{}"}, ["eps = 1e-06, model.vision.eps is 1e-05"]),
        ({"vision": "bert:{}"}, []),  # it tells nothing of an image side
        ("{}", []),  # a run of ours: its model is its own business
        (None, []),
    ],
)
def test_numbers_that_the_weights_were_not_trained_with_are_said(tmp_path, caplog, init, lines):
    of = VIT if "vit" in str(init) else BERT
    (tmp_path / "config.json").write_text(json.dumps(of))
    if init:
        init = ast.literal_eval(repr(init).replace("{}", str(tmp_path)))
    towers = {"text": EncoderConfig(eps=1e-12), "vision": EncoderConfig(eps=1e-5)}
    start.warn_of_other_numbers(init or {}, towers)
    assert len(caplog.messages) == len(lines)
    for line, message in zip(lines, caplog.messages, strict=True):
        assert f"{tmp_path} was trained with {line}: other outputs than there" in message


def test_every_model_tells_its_towers():
    found = {
        name: sorted(plugins.build("models", name).towers())
        for name in ("bert", "vit", "clip", "ufm", "xfm")
    }
    both = ["text", "vision"]
    assert found == {"bert": ["text"], "vit": ["vision"], "clip": both, "ufm": both, "xfm": both}
    assert plugins.build("models", "bert", text={"eps": 0.5}).towers()["text"].eps == 0.5


def test_what_may_be_left_over_allows_nothing_that_is_missing():
    there = {"text/a": np.zeros(2), "itm_head/b": np.zeros(3)}
    found = start.fitted(there, {"text/a": (2,)}, leave=[".*"])
    assert found.left == ["itm_head/b"] and list(found.arrays) == ["text/a"]
    with pytest.raises(ValueError, match=r"text/c \(2,\): missing in the file"):
        start.fitted(there, {"text/a": (2,), "text/c": (2,)}, leave=[".*"])
    with pytest.raises(ValueError, match=r"itm_head/b .*: in the file, not in the model"):
        start.fitted(there, {"text/a": (2,)}, leave=["mlm_head/.*"])
    with pytest.raises(ValueError, match=r"text/a: \(2,\) in the file, \(4,\) wanted"):
        start.fitted(there, {"text/a": (4,)}, leave=[".*"])
