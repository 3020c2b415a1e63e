"""Import then export keeps what weights cannot tell: epsilon, GELU, ids, pooling, rates, labels."""

import functools
import json

import jax
import numpy as np
import pytest

from tests.convert import numpy_models
from tests.convert.test_parity import NAMES, read
from unified_fm.checkpoint import store
from unified_fm.commands import verify
from unified_fm.commands.convert import main
from unified_fm.config.settings import Teacher
from unified_fm.convert import families
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.readers.weights import open_weights, read_config
from unified_fm.teachers import transform

TEXT = {"bos_token_id": 7, "eos_token_id": 9}
RATES = {"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.0}
CLIP = {
    "text_config": {
        **{"layer_norm_eps": 1e-2, "hidden_act": "gelu_new", "attention_dropout": 0.3},
        **{"bos_token_id": 3, "pad_token_id": 4, "eos_token_id": 37},
    },
    "vision_config": {"layer_norm_eps": 0.05, "hidden_act": "gelu"},
}
ODD = [  # a golden module, and what becomes of its config.json
    ("bert_odd", {"layer_norm_eps": 1e-2, "hidden_act": "gelu_new", **TEXT, **RATES}),
    ("bert_small", {"layer_norm_eps": 0.5, "hidden_act": "quick_gelu", "pad_token_id": 3}),
    ("roberta_odd", {"layer_norm_eps": 1e-2, "hidden_act": "gelu_fast", "pad_token_id": 3, **TEXT}),
    ("roberta_small", {"layer_norm_eps": 1e-12, "pad_token_id": 0, **RATES}),
    ("vit_odd", {"layer_norm_eps": 1e-2, "hidden_act": "gelu_pytorch_tanh", **RATES}),
    ("beit_small", {"layer_norm_eps": 1e-2, "hidden_act": "gelu_new"}),
    ("beit_mean", {"layer_norm_eps": 1e-12, "layer_scale_init_value": 1e-5}),
    ("clip_odd", CLIP),
    ("clip_small", {"text_config": {"eos_token_id": 2}, "vision_config": {"hidden_act": "gelu"}}),
]


def source_folder(name, changes, where):
    """A golden module with another config.json; returns the config, and inputs for it."""
    config, params, inputs, _ = read(name)
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    if "id2label" in config:
        config["id2label"] = {key: f"kind {key}" for key in config["id2label"]}
        config["label2id"] = {label: int(key) for key, label in config["id2label"].items()}
    where.mkdir()
    write_safetensors(where / "model.safetensors", params, {"format": "pt"})
    (where / "config.json").write_text(json.dumps(config))
    if "input_ids" in inputs:
        rng = np.random.default_rng(0)
        ids = rng.integers(3, 60, inputs["input_ids"].shape)
        if "text_config" in config:
            end = config["text_config"]["eos_token_id"]
            ids[ids == end] = 59
            ids[[0, 1, 2], [10, 6, 2]] = 60 if end == 2 else end
        else:
            ids = np.where(inputs["attention_mask"], ids, config["pad_token_id"])
        inputs["input_ids"] = ids
    return config, inputs


def convert(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def there_and_back(tmp_path, family, *flags):
    ours, out = tmp_path / "ours", tmp_path / "out"
    if not ours.exists():
        convert("import", f"--from={family}", f"--file={tmp_path / 'hf'}", f"--to={ours}")
    convert("export", f"--checkpoint={ours}", f"--to=hf-{family}", f"--out={out}", *flags)
    return read_config(out)


def our_outputs(config, params, inputs):
    return jax.jit(functools.partial(verify.our_outputs, config))(params, inputs)


def keys_that_differ(written, config):
    """What the export says otherwise than the source."""
    differ = []
    for key, value in written.items():
        if key.endswith("_config"):
            differ += keys_that_differ(value, config[key])
        elif key in config and value != config[key] and key != "layer_scale_init_value":
            differ.append(key)
    return differ


@pytest.mark.parametrize("name", [name for name in NAMES if name != "beit_shared"])
def test_the_numpy_models_compute_what_transformers_does(name):
    config, params, inputs, outputs = read(name)
    found = numpy_models.outputs(config, params, inputs)
    assert found
    for key, value in found.items():
        np.testing.assert_allclose(value, outputs[key], atol=1e-5, rtol=0, err_msg=key)


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "changes"), ODD)
def test_A8_import_then_export_keeps_the_numbers_and_the_outputs(tmp_path, name, changes):
    config, inputs = source_folder(name, changes, tmp_path / "hf")
    family = name.split("_")[0]
    written = there_and_back(tmp_path, family)
    assert keys_that_differ(written, config) == []
    for key, value in changes.items():
        kept = written[key].items() >= value.items() if isinstance(value, dict) else True
        assert kept and (isinstance(value, dict) or written[key] == value), key

    # The folder that went out gives, by another implementation, what the one that came in gave.
    expected = numpy_models.outputs(config, open_weights(tmp_path / "hf"), inputs)
    out = numpy_models.outputs(written, open_weights(tmp_path / "out"), inputs)
    ours = our_outputs(written, families.load(family, tmp_path / "out"), inputs)
    for key, value in expected.items():
        np.testing.assert_array_equal(out[key], value, err_msg=key)
        np.testing.assert_allclose(ours[key], value, atol=2e-5, rtol=0, err_msg=key)


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("bert_odd", {"layer_norm_eps": 1e-2}, "hidden"),
        ("roberta_odd", {"pad_token_id": 3}, "hidden"),
        ("vit_odd", {"layer_norm_eps": 1e-2}, "hidden"),
        ("beit_small", {"layer_norm_eps": 1e-2}, "hidden"),
        ("clip_odd", {"text_config": {"eos_token_id": 37}}, "text"),
    ],
)
def test_A8_these_numbers_change_the_outputs(tmp_path, name, changes, key):
    """So the test above would see it if one of them were lost."""
    odd, inputs = source_folder(name, changes, tmp_path / "hf")
    params = open_weights(tmp_path / "hf")
    kind = read(name)[0]
    found = [numpy_models.outputs(config, params, inputs)[key] for config in (odd, kind)]
    assert np.abs(found[0] - found[1]).max() > 1e-2


def test_A8_flags_override_the_source(tmp_path):
    source_folder("beit_mean", {"layer_norm_eps": 1e-2, "hidden_act": "gelu_fast"}, tmp_path / "hf")
    flags = ("--eps=0.001", "--gelu=quick", "--pool=class")
    written = there_and_back(tmp_path, "beit", *flags)
    expected = {"layer_norm_eps": 1e-3, "hidden_act": "quick_gelu", "use_mean_pooling": False}
    assert written.items() >= expected.items()
    # A flag that asks for what the source has keeps the source's own name of it.
    written = there_and_back(tmp_path, "beit", "--gelu=tanh", "--pool=mean")
    expected = {"layer_norm_eps": 1e-2, "hidden_act": "gelu_fast", "use_mean_pooling": True}
    assert written.items() >= expected.items()


@pytest.mark.slow
def test_A8_both_towers_of_clip_take_the_flags(tmp_path):
    source_folder("clip_odd", CLIP, tmp_path / "hf")
    written = there_and_back(tmp_path, "clip", "--eps=0.001", "--gelu=erf")
    for tower in ("text_config", "vision_config"):
        assert written[tower]["layer_norm_eps"] == 1e-3 and written[tower]["hidden_act"] == "gelu"
    assert written["text_config"]["eos_token_id"] == 37


def test_A8_the_model_beside_imported_weights_has_their_numbers(tmp_path):
    """A teacher that is named by its path only is the model that the source was."""
    changes = {"layer_norm_eps": 1e-2, "hidden_act": "gelu_new", "pad_token_id": 3}
    source_folder("roberta_odd", changes, tmp_path / "hf")
    there_and_back(tmp_path, "roberta")
    teachers = transform.build({"t": Teacher(path=str(tmp_path / "ours"), streams=["text"])})
    model = teachers["t"].model
    assert (model.text["eps"], model.text["gelu"], model.pad_id) == (1e-2, "tanh", 3)


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("bert_odd", {"text": {"eps": 1e-2, "gelu": "tanh"}, "pad_id": 5}, (1e-2, "gelu_new", 5)),
        ("bert_odd", {}, (1e-12, "gelu", 0)),
        ("roberta_odd", {"position_offset": "roberta", "pad_id": 1}, (1e-12, "gelu", 1)),
    ],
)
@pytest.mark.parametrize("inner", ["", "checkpoints"])
def test_A8_a_run_is_exported_with_the_numbers_of_its_own_model(
    tmp_path, name, model, expected, inner
):
    config, params, _, _ = read(name)
    family = name.split("_")[0]
    heads = config["num_attention_heads"]
    tree = families.import_params(families.FAMILIES[family].tables[0], params, heads=heads)
    run, out = tmp_path / "run", tmp_path / "out"
    store.save_params(run / "checkpoints", tree)
    (run / "config.json").write_text(json.dumps({"model": {"name": "bert", **model}}))
    convert("export", f"--checkpoint={run / inner}", f"--to=hf-{family}", f"--out={out}")
    written = read_config(out)
    keys = ("layer_norm_eps", "hidden_act", "pad_token_id")
    assert tuple(written[key] for key in keys) == expected


def test_A8_texts_are_not_exported_to_a_kind_that_numbers_them_otherwise(tmp_path, capsys):
    source_folder("roberta_odd", {}, tmp_path / "hf")
    there_and_back(tmp_path, "roberta")
    arguments = [f"--checkpoint={tmp_path / 'ours'}", f"--out={tmp_path / 'b'}"]
    assert main(["export", *arguments, "--to=hf-bert"]) == 1
    assert "numbered as in roberta, those of hf-bert as in bert" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"source": 3}, "source is 3; expected an object"),
        ({"source": {"text": []}}, "text is []; expected an object"),
        ({"source": {"text": {"layer_norm_eps": "x"}}}, "layer_norm_eps is 'x'; expected a number"),
        ({"source": {"text": {"pad_token_id": -1}}}, "pad_token_id is -1; expected an integer"),
        ({"source": {"text": {"positions": "x"}}}, "positions are 'x'; possible: bert, roberta"),
        ({"model": {"name": "bert", "text": 3}}, "text is 3; expected an object"),
        ({"model": {"name": "bert", "text": {"gelu": 3}}}, "gelu is 3; expected a text"),
        ({"model": {"name": "bert", "pad_id": "0"}}, "pad_id is '0'; expected an integer"),
        ({"model": 3}, "model is 3; expected an object"),
        ("{", "is not JSON"),
    ],
)
def test_A8_what_is_kept_beside_is_checked_when_read(tmp_path, capsys, found, message):
    source_folder("bert_small", {}, tmp_path / "hf")
    there_and_back(tmp_path, "bert")
    (tmp_path / "ours" / "config.json").write_text(
        found if isinstance(found, str) else json.dumps(found)
    )
    arguments = [f"--checkpoint={tmp_path / 'ours'}", f"--out={tmp_path / 'b'}", "--to=hf-bert"]
    assert main(["export", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_A8_wrong_numbers_of_the_source_stop_the_import(tmp_path, capsys):
    source_folder("bert_small", {"hidden_dropout_prob": [0.1]}, tmp_path / "hf")
    arguments = ["import", "--from=bert", f"--file={tmp_path / 'hf'}", f"--to={tmp_path / 'ours'}"]
    assert main(arguments) == 1
    assert "hidden_dropout_prob is [0.1]; expected a number" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
