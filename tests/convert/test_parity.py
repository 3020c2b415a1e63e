"""Imported weights give the outputs of `transformers`, and go back byte by byte.

The golden files were made by `make_golden.py`; PyTorch is not needed here.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from tools import convert_checkpoint
from unified_fm.convert import families
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, flatten, import_params

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(file.stem for file in GOLDEN.glob("*.npz") if file.stem != "bicubic")
MODELS = {
    "bert": convert_checkpoint.text_outputs,
    "roberta": convert_checkpoint.text_outputs,
    "vit": convert_checkpoint.image_outputs,
    "beit": convert_checkpoint.image_outputs,
}


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


@pytest.mark.parametrize("name", [n for n in NAMES if n.split("_")[0] in MODELS])
def test_outputs_equal_those_of_transformers(name):
    config, params, inputs, outputs = read(name)
    tree = import_golden(name, params, config)
    ours = jax.jit(functools.partial(MODELS[config["model_type"]], config))(tree, **inputs)
    for key, expected in outputs.items():
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
