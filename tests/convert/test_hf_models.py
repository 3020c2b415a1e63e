"""From a `config.json` to the options of a model of ours."""

import json

import pytest

from unified_fm.convert.errors import ConversionError
from unified_fm.convert.hf_models import model_options, read

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu_new",
}
TEXT = {"vocab_size": 50, "max_position_embeddings": 20, "type_vocab_size": 2, "pad_token_id": 0}
IMAGE = {"image_size": 32, "patch_size": 8}
STACK = {
    "layers": 2,
    "width": 16,
    "heads": 4,
    "mlp_width": 32,
    "eps": 1e-12,
    "gelu": "tanh",
}


def test_bert_and_roberta_differ_in_their_positions():
    options = model_options({"model_type": "roberta", **TEXT, **SIZES})
    assert options == {
        "name": "bert",
        "vocab_size": 50,
        "text": STACK,
        "max_positions": 20,
        "token_types": 2,
        "pad_id": 0,
        "position_offset": "roberta",
        "head_gelu": "erf",
    }
    assert model_options({"model_type": "bert", **TEXT, **SIZES})["head_gelu"] is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model_type": "vit"}, {"classes": None}),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, {"classes": 2}),
        (
            {
                "model_type": "vit",
                "architectures": ["ViTForImageClassification"],
                "id2label": {"0": "a", "1": "b", "2": "c"},
            },
            {"classes": 3},
        ),
        ({"model_type": "beit"}, {"pool": "mean_before_norm", "absolute_positions": False}),
        ({"model_type": "beit", "use_mean_pooling": False}, {"pool": "class"}),
        (
            {"model_type": "beit", "use_shared_relative_position_bias": True},
            {
                "vision": STACK
                | {"layer_scale": 0.1, "relative_position_bias": True, "key_bias": False}
            },
        ),
        (
            {"model_type": "beit", "layer_scale_init_value": 0},
            {
                "vision": STACK
                | {"layer_scale": None, "relative_position_bias": False, "key_bias": False}
            },
        ),
    ],
)
def test_images(given, expected):
    options = model_options({**IMAGE, **SIZES, **given})
    assert {key: options[key] for key in expected} == expected


def test_the_files_of_a_folder_also_tell_how_pixels_are_normalised(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **IMAGE, **SIZES}))
    assert "mean" not in read(tmp_path)
    beside = tmp_path / "preprocessor_config.json"
    beside.write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3], "do_resize": True}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        found = read(path)
        assert found["mean"] == (0.5, 0.4, 0.3) and "std" not in found
    beside.write_text(json.dumps({"image_std": [0.5, 0.5]}))
    with pytest.raises(ConversionError, match=r"preprocessor_config.json: image_std is \[0.5, 0.5"):
        read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **TEXT, **SIZES}))
    assert "std" not in read(tmp_path)  # a model of texts has no pixels
    (tmp_path / "config.json").unlink()
    assert read(tmp_path) is None


@pytest.mark.parametrize(("written", "end"), [(2, None), (49, 49)])
def test_the_end_of_a_text_in_old_and_new_clip_files(written, end):
    text = {**TEXT, **SIZES, "eos_token_id": written}
    config = {"model_type": "clip", "projection_dim": 7, "text_config": text}
    options = model_options(config | {"vision_config": {**IMAGE, **SIZES}})
    assert options["end_id"] == end and options["projection_dim"] == 7


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "robert"}, "model_type 'robert'; nearest: roberta; possible: bert, rob"),
        ({"model_type": "vit", **IMAGE}, "of this vit has no 'hidden_act'"),
        ({"model_type": "vit", **IMAGE, **SIZES, "hidden_act": "relu"}, "'relu'; possible: gelu,"),
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "positions of type 'relative_key'",
        ),
    ],
)
def test_what_no_model_of_ours_is(config, message):
    with pytest.raises(ConversionError, match=message):
        model_options(config)
