"""The published X-FM layout, on the golden file of the published system."""

import pathlib

import numpy as np
import pytest

from unified_fm.convert import families
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, flatten, import_params
from unified_fm.convert.tables import xfm

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "xfm_tiny.npz"

# X-FM section 6.2, written out by hand: {b} is `weight` and `bias`, L the layer number.
LINEAR = ("weight", "bias")
EMBEDDINGS = [
    "word_embeddings.weight",
    "position_embeddings.weight",
    "token_type_embeddings.weight",
    "LayerNorm.weight",
    "LayerNorm.bias",
    "position_ids",
]
BLOCK = [
    "norm1.weight",
    "norm1.bias",
    "norm2.weight",
    "norm2.bias",
    "attn.qkv.weight",
    "attn.q_bias",
    "attn.v_bias",
    "attn.relative_position_bias_table",
    "attn.relative_position_index",
    "attn.proj.weight",
    "attn.proj.bias",
    "gamma_1",
    "gamma_2",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
]
ATTENTION = ["self.query", "self.key", "self.value", "output.dense", "output.LayerNorm"]
HEAD = [
    "dense.weight",
    "dense.bias",
    "layer_norm.weight",
    "layer_norm.bias",
    "bias",
    "decoder.weight",
    "decoder.bias",
]


def published_names(layers):
    names = {"temp", "vision_encoder.cls_token", "vision_encoder.mask_token"}
    dense = ["vision_proj", "text_proj", "vision_encoder.patch_embed.proj"]
    dense += ["vision_encoder.fc_norm"]
    dense += [f"{head}.{n}" for head in ("itm_head", "bbox_head") for n in (0, 1, 3)]
    for layer in range(layers):
        names |= {f"vision_encoder.blocks.{layer}.{name}" for name in BLOCK}
        for encoder in ("text_encoder", "fusion_encoder"):
            prefix = f"{encoder}.roberta.encoder.layer.{layer}."
            dense += [prefix + "intermediate.dense", prefix + "output.dense"]
            dense += [prefix + "output.LayerNorm"]
            dense += [f"{prefix}attention.{name}" for name in ATTENTION]
            if encoder == "fusion_encoder":
                dense += [f"{prefix}crossattention.{name}" for name in ATTENTION]
    for encoder in ("text_encoder", "fusion_encoder"):
        names |= {f"{encoder}.roberta.embeddings.{name}" for name in EMBEDDINGS}
        names |= {f"{encoder}.{head}.{n}" for head in ("lm_head", "lm_cap_head") for n in HEAD}
    return names | {f"{name}.{kind}" for name in dense for kind in LINEAR}


def unused(name):
    """What nothing of ours keeps: caption heads, dead fusion embeddings, integer buffers."""
    dead = "fusion_encoder.roberta.embeddings."
    return (
        ".lm_cap_head." in name
        or name.endswith(("position_ids", "relative_position_index"))
        or (name.startswith(dead) and name != dead + "word_embeddings.weight")
    )


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def params(golden):
    return {k.removeprefix("params/"): v for k, v in golden.items() if k.startswith("params/")}


def test_export_writes_the_published_names_exactly(params):
    out = export_params(xfm.TABLE, import_params(xfm.TABLE, params, heads=4))
    assert set(out) == published_names(layers=2)
    assert set(params) | {
        "text_encoder.roberta.embeddings.position_ids",
        "fusion_encoder.roberta.embeddings.position_ids",
    } == set(out)


def test_everything_kept_is_byte_identical(params):
    reports = Report(), Report()
    tree = import_params(xfm.TABLE, params, heads=4, report=reports[0])
    out = export_params(xfm.TABLE, tree, report=reports[1])
    kept = [name for name in params if not unused(name)]
    assert len(kept) == 159
    for name in kept:
        assert out[name].shape == params[name].shape
        assert out[name].tobytes() == params[name].tobytes(), name
    assert set(reports[0].unused) == {name for name in params if unused(name)}
    assert set(reports[1].filled) == {name for name in out if unused(name)}
    assert {name.split(".", 1)[1] for name in reports[1].tied} == {
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    }


def test_filled_arrays_have_the_published_shapes_and_plain_values(params):
    out = export_params(xfm.TABLE, import_params(xfm.TABLE, params, heads=4))
    for name in filter(unused, params):
        assert out[name].shape == params[name].shape
        if name.endswith("relative_position_index"):
            np.testing.assert_array_equal(out[name], params[name])
        else:
            assert (out[name] == (1.0 if name.endswith("m.weight") else 0.0)).all(), name
    ids = out["text_encoder.roberta.embeddings.position_ids"]
    assert ids.dtype == np.int64 and ids.shape == (1, 514) and ids[0, -1] == 513


def test_exporting_an_imported_export_changes_no_byte(params):
    once = export_params(xfm.TABLE, import_params(xfm.TABLE, params, heads=4))
    twice = export_params(xfm.TABLE, import_params(xfm.TABLE, once, heads=4))
    assert list(once) == list(twice)
    assert all(once[name].tobytes() == twice[name].tobytes() for name in once)


def test_gradients_of_the_golden_file_convert_without_an_allow_list(golden, params):
    grads = {k.removeprefix("grads/"): v for k, v in golden.items() if k.startswith("grads/")}
    tree, grad_tree = (import_params(xfm.TABLE, f, heads=4) for f in (params, grads))
    assert {path: leaf.shape for path, leaf in flatten(tree).items()} == {
        path: leaf.shape for path, leaf in flatten(grad_tree).items()
    }


def test_heads_follow_from_the_relative_position_tables(params):
    tree = import_params(xfm.TABLE, params)
    assert tree["text"]["layer_00"]["self_attn"]["query"]["kernel"].shape == (32, 4, 8)


def as_x2vlm(params):
    """The same numbers in the layout of X2-VLM: one BERT of language and fusion layers."""
    out = {"text_encoder.bert.embeddings.position_ids": np.arange(514)[None]}
    for name, value in params.items():
        for old, new in [
            ("text_encoder.roberta.", "text_encoder.bert."),
            ("fusion_encoder.roberta.encoder.layer.0", "text_encoder.bert.encoder.layer.2"),
            ("fusion_encoder.roberta.encoder.layer.1", "text_encoder.bert.encoder.layer.3"),
            ("fusion_encoder.lm_head.dense", "text_encoder.cls.predictions.transform.dense"),
            (
                "fusion_encoder.lm_head.layer_norm",
                "text_encoder.cls.predictions.transform.LayerNorm",
            ),
            ("fusion_encoder.lm_head", "text_encoder.cls.predictions"),
        ]:
            name = name.replace(old, new)
        dead = ("fusion_encoder.", "text_encoder.lm_", "vision_encoder.mask_token")
        if not name.startswith(dead):
            out[name] = value
    return out


def test_x2vlm_is_cut_into_language_and_fusion_encoder(params, tmp_path):
    tree = flatten(import_params(xfm.TABLE, params, heads=4))
    write_safetensors(tmp_path / "x2.safetensors", as_x2vlm(params))
    theirs = flatten(families.load("x2vlm", tmp_path / "x2.safetensors", heads=4))
    absent = {path for path in tree if path.startswith("mlm_head/")} | {"vision/mask_token"}
    assert theirs.keys() == tree.keys() - absent and len(absent) == 6
    assert all(theirs[path].tobytes() == tree[path].tobytes() for path in theirs)


def test_old_spelling_and_absent_caption_heads(params):
    old = {name.replace("vision_encoder.", "visual_encoder."): v for name, v in params.items()}
    old = {name: v for name, v in old.items() if ".lm_cap_head." not in name}
    tree, old_tree = (flatten(import_params(xfm.TABLE, f, heads=4)) for f in (params, old))
    assert all(np.array_equal(tree[path], old_tree[path]) for path in tree)


def test_fine_tuned_layout_needs_the_allow_list_it_says(params):
    tuned = {
        name.replace("text_encoder.roberta.", "text_encoder."): value
        for name, value in params.items()
        if not name.startswith("text_encoder.lm")
    }
    tuned["cls_head.0.weight"] = np.ones((4, 32), np.float32)
    with pytest.raises(ConversionError, match="5 missing, 1 unexpected"):
        import_params(xfm.TABLE, tuned, heads=4)
    report = Report()
    allow = ["mlm_head/.*", r"cls_head\..*"]
    tree = import_params(xfm.TABLE, tuned, heads=4, allow=allow, report=report)
    assert "mlm_head" not in tree and len(tree["text"]) == 2
    assert len(report.allowed) == 6
