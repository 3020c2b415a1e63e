"""A `config.json` may hold anything: what it says is used, or refused by a `ConversionError`."""

import json

import numpy as np
import pytest

from tests.convert.test_hf_models import IMAGE, SIZES, TEXT
from tests.convert.test_parity import read
from unified_fm.convert import families
from unified_fm.convert.errors import CheckpointFormatError, ConversionError
from unified_fm.convert.hf_models import model_options
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.readers.weights import read_config

BERT = {"model_type": "bert", **TEXT, **SIZES}
CLIP = {
    "model_type": "clip",
    "projection_dim": 7,
    "text_config": {**TEXT, **SIZES},
    "vision_config": {**IMAGE, **SIZES},
}
WRONG = [None, True, -1, 0, 2**31, 1.5, "12", "", [], [3], {}, [[1, 2], [1, 2]], {"a": 1}]


def test_D5_a_square_may_be_written_as_two_equal_numbers():
    for size in ([32, 32], (32, 32)):
        config = {"model_type": "vit", **SIZES, "image_size": size, "patch_size": [8, 8]}
        options = model_options(config)
        assert (options["image_size"], options["patch_size"]) == (32, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": [32, 24]}, r"image_size is \[32, 24\]; expected one number, or two equal"),
        ({"image_size": (32, 32, 3)}, r"image_size is \(32, 32, 3\); expected one number, or two"),
        ({"image_size": "32"}, "image_size is '32'; expected an integer from 1 to 2147483647"),
        ({"image_size": True}, "image_size is True; expected an integer"),
        ({"image_size": 30}, "images of 3 channels, 30 pixels and patches of 8"),
        ({"num_channels": 4}, "images of 4 channels"),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'; expected a number from 0 to 1"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan; expected"),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps is -1e-06; expected"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected an integer from 1"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not a multiple of 3 heads"),
        ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; expected a text of one line"),
        ({"architectures": "ViTModel"}, "architectures is 'ViTModel'; expected a list of texts"),
        ({"architectures": [1]}, r"architectures is \[1\]; expected a list of texts"),
        ({"id2label": ["a"]}, r"id2label is \['a'\]; expected an object"),
        ({"id2label": {"0": "a", "2": "b"}}, "expected names for the numbers from 0 on"),
        ({"model_type": ["vit"]}, r"model_type is \['vit'\]; expected a text of one line"),
        ({"model_type": {}}, "model_type is {}; expected a text of one line"),
    ],
)
def test_D5_wrong_values_are_named(change, message):
    with pytest.raises(ConversionError, match=message):
        model_options({"model_type": "vit", **IMAGE, **SIZES, **change})


@pytest.mark.parametrize("config", [BERT, CLIP, {"model_type": "beit", **IMAGE, **SIZES}])
def test_D5_any_wrong_type_anywhere_is_one_kind_of_error(config):
    """Every value in turn becomes each of the wrong ones; some of them happen to be right."""
    refused = 0
    for path in paths(config):
        for wrong in WRONG:
            try:
                options = model_options(changed(config, path, wrong))
            except ConversionError as error:
                assert len(str(error)) < 300
                refused += 1
            else:
                assert options["name"] in ("bert", "clip", "vit")
    assert refused > 8 * len(paths(config))


@pytest.mark.parametrize("heads", [True, "2", 0, -2, 2.0, [2], {"a": 2}, 10**30])
def test_D5_a_wrong_number_of_heads_is_refused_before_it_cuts_a_matrix(tmp_path, heads):
    _, params, _, _ = read("bert_small")
    write_safetensors(tmp_path / "model.safetensors", params)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": heads}))
    with pytest.raises(ConversionError, match=r"num_attention_heads is .*expected an integer"):
        families.load("bert", tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 9000, "\ud800", '{"a": ' * 900 + "1" + "}" * 900, "[]", "{"]
)
def test_D5_a_config_that_is_no_object_is_no_json_of_a_checkpoint(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        config = read_config(tmp_path)
    except CheckpointFormatError:
        return
    with pytest.raises(ConversionError):
        model_options({**BERT, "vocab_size": config})  # deep, but an object: shown cut short


def test_D5_stacked_layers_that_are_none_are_refused(tmp_path):
    for shape in ((), (0, 4), (10_000, 1)):
        stacked = {"Transformer/encoderblock/LayerNorm_0/scale": np.zeros(shape, np.float32)}
        np.savez(tmp_path / "x.npz", **stacked)
        with pytest.raises(ConversionError, match="expected an array of stacked layers"):
            families.load("augreg", tmp_path / "x.npz", heads=2)


def paths(tree, at=()):
    """The keys that lead to every value."""
    found = []
    for key, value in tree.items():
        found.append((*at, key))
        if isinstance(value, dict):
            found += paths(value, (*at, key))
    return found


def changed(tree, path, value):
    """A copy with another value at `path`."""
    key, *rest = path
    return {**tree, key: changed(tree[key], rest, value) if rest else value}
