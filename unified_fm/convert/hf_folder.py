"""Writes a folder that `transformers` loads: safetensors, `config.json`, tokenizer files."""

import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np

from unified_fm.convert import beit, bert, matching, roberta, vit
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.rows import Report, Row, Table
from unified_fm.convert.safetensors_file import write_safetensors
from unified_fm.convert.table import export_params, flatten, unflatten

KINDS: dict[str, Table] = {
    "hf-bert": bert.TABLE,
    "hf-roberta": roberta.TABLE,
    "hf-vit": vit.TABLE,
    "hf-beit": beit.TABLE,
}
_EPS = {"hf-bert": 1e-12, "hf-roberta": 1e-5, "hf-vit": 1e-6, "hf-beit": 1e-6}
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def write_hf_folder(
    kind: str,
    params: Mapping,
    out: str | os.PathLike,
    *,
    eps: float | None = None,
    gelu: str = "erf",
    dropout: float = 0.1,
    tokenizer: str | os.PathLike | None = None,
    report: Report | None = None,
) -> None:
    """Exports the part of our tree that the kind has a place for.

    Args:
        kind: a key of `KINDS`.
        params: our tree; other encoders and heads in it are left out, and listed as allowed.
        out: folder to write; made if it is missing.
        eps: of the layer norms; by default that of the kind (BERT 1e-12, RoBERTa 1e-5, ViT and BEiT
            1e-6).
        gelu: "erf" or "tanh".
        dropout: of the text kinds' hidden states and attention.
        tokenizer: folder whose tokenizer files are copied.
        report: filled with what was done, if given.

    Raises:
        ConversionError: unknown kind, or parameters that the kind needs are missing.
    """
    if kind not in KINDS:
        hint = matching.nearest(kind, KINDS)
        raise ConversionError(f"unknown kind {kind!r}{hint}; possible: {', '.join(KINDS)}")
    report = Report() if report is None else report
    flat = flatten(params)
    places = {row.stack for row in KINDS[kind] if isinstance(row, Row)}
    kept = {path: leaf for path, leaf in flat.items() if path.split("/")[0] in places}
    report.allowed += [path for path in flat if path not in kept]
    arrays = export_params(KINDS[kind], unflatten(kept), report=report)
    config = config_of(kind, kept, eps=eps, gelu=gelu, dropout=dropout)

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / "model.safetensors", arrays, {"format": "pt"})
    _write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
    for name in _TOKENIZER:
        if tokenizer is not None and (pathlib.Path(tokenizer) / name).is_file():
            shutil.copyfile(pathlib.Path(tokenizer) / name, out / name)


def config_of(
    kind: str,
    flat: Mapping[str, np.ndarray],
    *,
    eps: float | None = None,
    gelu: str = "erf",
    dropout: float = 0.1,
) -> dict:
    """The `config.json` of a kind, with all sizes read off our parameters by path."""
    stack = "text" if kind in ("hf-bert", "hf-roberta") else "vision"
    width, heads, _ = np.shape(flat[f"{stack}/layer_00/self_attn/query/kernel"])
    config = {
        "model_type": kind.removeprefix("hf-"),
        "hidden_size": width,
        "num_hidden_layers": matching.our_layers(flat)[stack],
        "num_attention_heads": heads,
        "intermediate_size": np.shape(flat[f"{stack}/layer_00/mlp_in/bias"])[0],
        "hidden_act": {"erf": "gelu", "tanh": "gelu_new"}[gelu],
        "layer_norm_eps": _EPS[kind] if eps is None else eps,
        "torch_dtype": "float32",
    }
    rest = _text_config if stack == "text" else _vision_config
    return config | rest(kind, flat, dropout)


def _text_config(kind: str, flat: Mapping, dropout: float) -> dict:
    name = {"hf-bert": "Bert", "hf-roberta": "Roberta"}[kind]
    head = "ForMaskedLM" if "mlm_head/bias" in flat else "Model"
    if "next_sentence_head/bias" in flat:
        head = "ForPreTraining"
    special = {"pad_token_id": 0}
    if kind == "hf-roberta":
        special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    return {
        "architectures": [name + head],
        "vocab_size": np.shape(flat["text_embed/word/embedding"])[0],
        "max_position_embeddings": np.shape(flat["text_embed/position/embedding"])[0],
        "type_vocab_size": np.shape(flat["text_embed/token_type/embedding"])[0],
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "tie_word_embeddings": True,
        **special,
    }


def _vision_config(kind: str, flat: Mapping, dropout: float) -> dict:
    name = {"hf-vit": "ViT", "hf-beit": "Beit"}[kind]
    classes = np.shape(flat.get("image_head/bias", np.zeros(0)))[0]
    patch = np.shape(flat["patch_embed/kernel"])[0]
    tables = "vision/layer_00/relative_position_bias" in flat
    if tables:
        rows = np.shape(flat["vision/layer_00/relative_position_bias"])[0]
        grid = (math.isqrt(rows - 3) + 1) // 2
    else:
        grid = math.isqrt(np.shape(flat["vision/position"])[1] - 1)
    config = {
        "architectures": [f"{name}ForImageClassification" if classes else f"{name}Model"],
        "image_size": grid * patch,
        "patch_size": patch,
        "num_channels": 3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if classes:
        config["id2label"] = {str(n): f"LABEL_{n}" for n in range(classes)}
        config["label2id"] = {f"LABEL_{n}": n for n in range(classes)}
    if kind == "hf-beit":
        config |= {
            "use_relative_position_bias": tables,
            "use_shared_relative_position_bias": False,
            "use_absolute_position_embeddings": "vision/position" in flat,
            "use_mask_token": "vision/mask_token" in flat,
            "layer_scale_init_value": 0.1 if "vision/layer_00/scale_attn" in flat else 0.0,
            "use_mean_pooling": True,
        }
    return config


def _write_text(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
