"""Dialects of one family give the same tree: spellings, fused arrays, generations, prefixes."""

import json

import numpy as np
import pytest

from tests.convert.test_parity import import_golden, read
from unified_fm.convert import families
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, flatten, import_params
from unified_fm.convert.tables import augreg, beit, bert, clip, vit


def same(left, right):
    left, right = flatten(left), flatten(right)
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path, strict=True)


def renamed(params, *pairs):
    for old, new in pairs:
        params = {name.replace(old, new): value for name, value in params.items()}
    return params


V5 = [
    ("encoder.layer.", "layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("attention.attention.relative_position_bias", "relative_position_bias"),
    ("encoder.relative_position_bias", "shared_position_bias"),
]


@pytest.mark.parametrize("name", ["vit_small", "beit_small", "beit_shared"])
def test_v5_names_in_memory(name):
    config, params, _, _ = read(name)
    same(import_golden(name, params, config), import_golden(name, renamed(params, *V5), config))


@pytest.mark.parametrize("prefix", ["vit.", ""])
def test_vit_without_prefix(prefix):
    config, params, _, _ = read("vit_small")
    bare = {name.replace("vit.", prefix): value for name, value in params.items()}
    same(import_golden("vit_small", params, config), import_golden("vit_small", bare, config))


def test_bert_old_file_gamma_beta_no_prefix_tied_decoder_and_ids():
    config, params, _, _ = read("bert_small")
    old = {}
    for name, value in params.items():
        norm = "LayerNorm" in name
        name = name.removeprefix("bert.")
        name = name.replace("weight", "gamma").replace("bias", "beta") if norm else name
        old[name] = value
    old["embeddings.position_ids"] = np.arange(20)[None]
    old["cls.predictions.decoder.weight"] = params["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = params["cls.predictions.bias"]
    report = Report()
    same(
        import_golden("bert_small", params, config),
        import_params(bert.TABLE, old, heads=2, report=report),
    )
    assert report.unused == ["embeddings.position_ids"]
    assert len(report.tied) == 2


def timm(params, *, layers):
    """A Hugging Face ViT or BEiT written out in timm's names, independently of the tables."""
    out = {}
    beit_style = "lambda_1" in " ".join(params)
    for name, value in params.items():
        for old, new in [
            ("vit.", ""),
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.mask_token", "mask_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("classifier", "head"),
            ("attention.output.dense", "attn.proj"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("encoder.layer.", "blocks."),
            ("lambda_", "gamma_"),
            ("attention.attention.relative_position_bias.", "attn."),
            ("encoder.relative_position_bias.", "rel_pos_bias."),
            ("layernorm.", "fc_norm." if beit_style else "norm."),
        ]:
            name = name.replace(old, new)
        if "attention.attention" not in name:
            out[name] = value
    for layer in range(layers):
        at = next(n for n in params if n.endswith(f"layer.{layer}.attention.attention.key.weight"))
        at = at.removesuffix("key.weight")
        weights = [params[f"{at}{part}.weight"] for part in ("query", "key", "value")]
        out[f"blocks.{layer}.attn.qkv.weight"] = np.vstack(weights)
        if beit_style:
            out[f"blocks.{layer}.attn.q_bias"] = params[at + "query.bias"]
            out[f"blocks.{layer}.attn.v_bias"] = params[at + "value.bias"]
        else:
            biases = [params[f"{at}{part}.bias"] for part in ("query", "key", "value")]
            out[f"blocks.{layer}.attn.qkv.bias"] = np.concatenate(biases)
    return out


@pytest.mark.parametrize(
    ("name", "table", "layers"),
    [
        ("vit_odd", vit.TIMM, 3),
        ("beit_odd", beit.ORIGINAL, 3),
        ("beit_shared", beit.ORIGINAL, 2),
    ],
)
def test_timm_and_original_names(name, table, layers):
    config, params, _, _ = read(name)
    theirs, heads = timm(params, layers=layers), config["num_attention_heads"]
    tree = import_params(table, theirs, heads=heads)
    same(import_golden(name, params, config), tree)
    if name != "beit_shared":
        out = export_params(table, tree)
        assert out.keys() == theirs.keys()
        assert all(out[key].tobytes() == theirs[key].tobytes() for key in out)


def test_beit2_pretraining_file_drops_what_xfm_drops(tmp_path):
    """X-FM section 6.6: the shared table goes to every layer; norm and token head are unused."""
    _, params, _, _ = read("beit_shared")
    file = {n: v for n, v in timm(params, layers=2).items() if "fc_norm" not in n}
    one = np.ones(3, np.float32)
    extra = ["norm.weight", "norm.bias", "lm_head.weight", "lm_head.bias"]
    extra += ["cls_pt_layers.0.attn.qkv.weight", "rel_pos_bias.relative_position_index"]
    write_safetensors(tmp_path / "beit.safetensors", file | dict.fromkeys(extra, one))
    report = Report()
    tree = families.load("beit2", tmp_path / "beit.safetensors", report=report)
    assert sorted(report.unused) == sorted(extra)
    assert "norm" not in tree["vision"]
    tables = [tree["vision"][layer]["relative_position_bias"] for layer in ("layer_00", "layer_01")]
    np.testing.assert_array_equal(*tables)


def google(tree, *, new):
    """Our ViT tree in the names of either generation of Google's npz files."""
    attention, norm, mlp = ("0", "1", "0") if new else ("1", "2", "3")
    out = {}
    for path, leaf in flatten(tree).items():
        for ours, theirs in [
            ("vision/norm", "Transformer/encoder_norm"),
            ("vision/layer_0", "Transformer/encoderblock_"),
            ("self_norm", "LayerNorm_0"),
            ("mlp_norm", f"LayerNorm_{norm}"),
            ("self_attn", f"MultiHeadDotProductAttention_{attention}"),
            ("mlp_in", f"MlpBlock_{mlp}/Dense_0"),
            ("mlp_out", f"MlpBlock_{mlp}/Dense_1"),
            ("patch_embed", "embedding"),
            ("vision/class_token", "cls"),
            ("vision/position", "Transformer/posembed_input/pos_embedding"),
            ("image_head", "head"),
        ]:
            path = path.replace(ours, theirs)
        out[path] = leaf
    if new:
        position = out.pop("Transformer/posembed_input/pos_embedding")
        out["cls"] = out["cls"] + position[:, :1]
        out["pos_embedding"] = position[:, 1:]
    return out


@pytest.fixture(scope="module")
def vit_tree():
    config, params, _, _ = read("vit_small")
    return import_golden("vit_small", params, config)


def test_google_npz_of_the_old_generation(vit_tree, tmp_path):
    old = google(vit_tree, new=False)
    np.savez(tmp_path / "old.npz", **old)
    tree = families.load("augreg", tmp_path / "old.npz")
    same(vit_tree, tree)
    out = export_params(augreg.TABLE, tree)
    assert out.keys() == old.keys() and all((out[k] == old[k]).all() for k in old)


@pytest.mark.parametrize("prefix", ["", "params/", "opt/target/", "params/img/"])
@pytest.mark.parametrize("stacked", [False, True])
def test_google_npz_of_big_vision(vit_tree, tmp_path, prefix, stacked):
    new = google(vit_tree, new=True)
    file = dict(new)
    if stacked:
        first = {n: v for n, v in new.items() if "encoderblock_0" in n}
        file = {n: v for n, v in new.items() if "encoderblock" not in n}
        for name, value in first.items():
            layers = np.stack([value, new[name.replace("block_0", "block_1")]])
            file[name.replace("encoderblock_0", "encoderblock")] = layers
    np.savez(tmp_path / "new.npz", **{prefix + name: value for name, value in file.items()})
    tree = families.load("augreg", tmp_path / "new.npz")
    # What is added to the patches and the class slot is the same as before.
    position, token = tree["vision"]["position"], tree["vision"]["class_token"]
    expected = vit_tree["vision"]
    np.testing.assert_array_equal(position[:, 1:], expected["position"][:, 1:])
    np.testing.assert_array_equal(position[:, 0], 0)
    np.testing.assert_array_equal(token, expected["class_token"] + expected["position"][:, :1])
    out = augreg.big_vision(export_params(augreg.TABLE, tree))
    assert out.keys() == new.keys()
    assert all(out[name].tobytes() == new[name].tobytes() for name in new)


def test_clip_names_and_shapes():
    config, params, _, _ = read("clip_small")
    tree = flatten(import_golden("clip_small", params, config))
    assert len(tree) == len(params)
    assert tree["vision/class_token"].shape == (1, 1, 16)
    assert tree["vision/position"].shape == (1, 10, 16)
    assert tree["text_proj/kernel"].shape == (16, 12)
    unprojected = {n: v for n, v in params.items() if "projection" not in n and n != "logit_scale"}
    assert "text_proj" not in import_params(clip.TABLE, unprojected, heads=2)
    one = {n: v for n, v in params.items() if n.startswith("text")}  # CLIPTextModelWithProjection
    assert import_params(clip.TABLE, one, heads=2).keys() == {"text_embed", "text", "text_proj"}
    del one["text_model.final_layer_norm.bias"]
    with pytest.raises(ConversionError, match="1 missing, 0 unexpected"):
        import_params(clip.TABLE, one, heads=2)


def test_heads_come_from_config_json(tmp_path):
    _, params, _, _ = read("bert_odd")
    write_safetensors(tmp_path / "model.safetensors", params)
    with pytest.raises(ConversionError, match="number of heads of 'text' cannot be read off"):
        families.load("bert", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 3}))
    tree = families.load("bert", tmp_path)
    assert tree["text"]["layer_00"]["self_attn"]["query"]["kernel"].shape == (24, 3, 8)


def test_a_folder_in_an_installed_package():
    assert families.fetch("package:numpy/fft") == f"{np.__path__[0]}/fft"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: families.load("robert", "x"), "unknown family 'robert'; nearest: roberta; poss"),
        (lambda: families.parse("roberta"), "expected FAMILY:PATH, found 'roberta'"),
        (lambda: families.fetch("package:no_such/model"), "no installed package 'no_such'"),
        (lambda: families.fetch("package:unified_fm.main/x"), "no installed package 'unified_fm.m"),
    ],
)
def test_unknown_families(call, message):
    with pytest.raises(ConversionError, match=message):
        call()
