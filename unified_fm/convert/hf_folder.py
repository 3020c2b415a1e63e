"""Writes a folder that `transformers` loads: safetensors, `config.json`, tokenizer files."""

import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from unified_fm import files
from unified_fm.convert import hf_models, matching
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.rows import Report, Row, Table
from unified_fm.convert.table import export_params, flatten, unflatten
from unified_fm.convert.tables import beit, bert, clip, roberta, vit

KINDS: dict[str, Table] = {
    "hf-bert": bert.TABLE,
    "hf-roberta": roberta.TABLE,
    "hf-vit": vit.TABLE,
    "hf-beit": beit.TABLE,
    "hf-clip": clip.TABLE,
}
_EPS = {"hf-bert": 1e-12, "hf-roberta": 1e-5, "hf-vit": 1e-6, "hf-beit": 1e-6, "hf-clip": 1e-5}
_GELU = {"hf-clip": "quick"}  # of the other kinds: erf
_POSITIONS = {"hf-bert": "bert", "hf-roberta": "roberta", "hf-clip": "clip"}
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_TOKENS = ("bos_token_id", "pad_token_id", "eos_token_id")
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
    source: Mapping[str, Mapping[str, Any]] | None = None,
    eps: float | None = None,
    gelu: str | None = None,
    pool: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    report: Report | None = None,
) -> None:
    """Exports the part of our tree that the kind has a place for.

    Args:
        kind: a key of `KINDS`.
        params: our tree; other encoders and heads in it are left out, and listed as allowed.
        out: folder to write; made if it is missing.
        source: what is known of the weights, see `convert.source`; without it, or where it is
            silent, that of the kind (epsilon: BERT 1e-12, RoBERTa and CLIP 1e-5, ViT and BEiT 1e-6;
            GELU: CLIP "quick", others "erf"; BEiT's pool "mean").
        eps: of the layer norms, instead of the source's.
        gelu: "erf", "tanh" or "quick", instead of the source's.
        pool: of BEiT, instead of the source's: its last norm is applied to the "mean" of the
            patches, or to every token and the "class" token is the summary.
        tokenizer: folder whose tokenizer files are copied.
        report: filled with what was done, if given.

    Raises:
        ConversionError: unknown kind, GELU or pool, parameters that the kind needs are missing, or
            texts whose positions are counted otherwise than the kind's.
    """
    choices = [("kind", kind, KINDS), ("pool", pool, ("mean", "class"))]
    for what, value, known in (*choices, ("GELU", gelu, hf_models.ACTIVATIONS)):
        if value is not None and value not in known:
            hint = matching.nearest(value, known)
            raise ConversionError(f"unknown {what} {value!r}{hint}; possible: {', '.join(known)}")
    report = Report() if report is None else report
    flat = flatten(params)
    places = {row.stack for row in KINDS[kind] if isinstance(row, Row)}
    kept = {path: leaf for path, leaf in flat.items() if path.split("/")[0] in places}
    report.allowed += [path for path in flat if path not in kept]
    arrays = export_params(KINDS[kind], unflatten(kept), report=report)
    config = config_of(kind, kept, source or {}, eps=eps, gelu=gelu, pool=pool)
    if kind == "hf-beit" and not config["use_mean_pooling"]:
        arrays = {name.replace("pooler.layernorm", "layernorm"): x for name, x in arrays.items()}

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_safetensors(out / "model.safetensors", arrays, {"format": "pt"})
    files.write_whole(out / "config.json", json.dumps(config, indent=2) + "\n")
    for name in _TOKENIZER:
        if tokenizer is not None and (pathlib.Path(tokenizer) / name).is_file():
            shutil.copyfile(pathlib.Path(tokenizer) / name, out / name)


def config_of(
    kind: str,
    flat: Mapping[str, np.ndarray],
    source: Mapping[str, Mapping[str, Any]],
    *,
    eps: float | None = None,
    gelu: str | None = None,
    pool: str | None = None,
) -> dict:
    """The `config.json` of a kind: sizes read off our parameters by path, the rest as told."""
    told = {name: dict(source.get(name, {})) for name in ("text", "vision")}
    _check_positions(kind, told["text"])
    for tower in told.values():
        if eps is not None or "layer_norm_eps" not in tower:
            tower["layer_norm_eps"] = _EPS[kind] if eps is None else eps
        wanted = gelu or (None if "hidden_act" in tower else _GELU.get(kind, "erf"))
        # There are several names for one function: the source's own stays if it is the one wanted.
        if wanted and hf_models.GELU.get(tower.get("hidden_act", "")) != wanted:
            tower["hidden_act"] = hf_models.ACTIVATIONS[wanted]
    if pool is not None:
        told["vision"]["use_mean_pooling"] = pool == "mean"
    config = {"model_type": kind.removeprefix("hf-"), "torch_dtype": "float32"}
    if kind == "hf-clip":
        return config | _clip_config(flat, told)
    if kind in ("hf-bert", "hf-roberta"):
        return config | _sizes("text", flat) | _text_config(kind, flat, told["text"])
    return config | _sizes("vision", flat) | _vision_config(kind, flat, told["vision"])


def _check_positions(kind: str, text: Mapping) -> None:
    wanted, found = _POSITIONS.get(kind), text.get("positions")
    if wanted and found and wanted != found:
        kinds = [name for name, positions in _POSITIONS.items() if positions == found]
        raise ConversionError(
            f"the texts of these weights are numbered as in {found}, those of {kind} as in "
            f"{wanted}: it would give other outputs; possible: {', '.join(kinds)}"
        )


def _picked(tower: Mapping, *names: str) -> dict:
    return {name: tower[name] for name in names if name in tower}


def _sizes(stack: str, flat: Mapping) -> dict:
    width, heads, _ = np.shape(flat[f"{stack}/layer_00/self_attn/query/kernel"])
    return {
        "hidden_size": width,
        "num_hidden_layers": matching.our_layers(flat)[stack],
        "num_attention_heads": heads,
        "intermediate_size": np.shape(flat[f"{stack}/layer_00/mlp_in/bias"])[0],
    }


def _clip_config(flat: Mapping, told: Mapping) -> dict:
    """Both towers' configs; a text ends with the last word, unless another is told."""
    for path in ("text_proj/kernel", "image_proj/kernel", "logit_scale"):
        if path not in flat:
            raise ConversionError(f"a CLIPModel needs both towers and projections: no {path}")
    words, width = np.shape(flat["text_embed/word/embedding"])[0], {}
    width["projection_dim"] = np.shape(flat["text_proj/kernel"])[1]
    numbers = ("hidden_act", "layer_norm_eps", "attention_dropout")
    text = {
        "vocab_size": words,
        "max_position_embeddings": np.shape(flat["text_embed/position/embedding"])[0],
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        **_picked(told["text"], *numbers, *_TOKENS),
    }
    vision = _picked(told["vision"], *numbers)
    return {
        "architectures": ["CLIPModel"],
        **width,
        "text_config": width | _sizes("text", flat) | text,
        "vision_config": width | _sizes("vision", flat) | _image_sizes(flat) | vision,
    }


def _text_config(kind: str, flat: Mapping, told: Mapping) -> dict:
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
        "tie_word_embeddings": True,
        **dict.fromkeys(_RATES, 0.1),
        **special,
        **_picked(told, "hidden_act", "layer_norm_eps", *_RATES, *_TOKENS),
    }


def _image_sizes(flat: Mapping) -> dict:
    patch = np.shape(flat["patch_embed/kernel"])[0]
    table = "vision/layer_00/relative_position_bias"
    if table in flat:
        grid = (math.isqrt(np.shape(flat[table])[0] - 3) + 1) // 2
    else:
        grid = math.isqrt(np.shape(flat["vision/position"])[1] - 1)
    return {"image_size": grid * patch, "patch_size": patch, "num_channels": 3}


def _vision_config(kind: str, flat: Mapping, told: Mapping) -> dict:
    name = {"hf-vit": "ViT", "hf-beit": "Beit"}[kind]
    classes = np.shape(flat.get("image_head/bias", np.zeros(0)))[0]
    config = {
        "architectures": [f"{name}ForImageClassification" if classes else f"{name}Model"],
        **_image_sizes(flat),
        **dict.fromkeys(_RATES, 0.0),
        **_picked(told, "hidden_act", "layer_norm_eps", *_RATES),
    }
    if classes:
        labels = told.get("labels", ())
        labels = labels if len(labels) == classes else [f"LABEL_{n}" for n in range(classes)]
        config["id2label"] = {str(n): label for n, label in enumerate(labels)}
        config["label2id"] = {label: n for n, label in enumerate(labels)}
    if kind == "hf-beit":
        scaled = "vision/layer_00/scale_attn" in flat
        config |= {
            "use_relative_position_bias": "vision/layer_00/relative_position_bias" in flat,
            "use_shared_relative_position_bias": False,
            "use_absolute_position_embeddings": "vision/position" in flat,
            "use_mask_token": "vision/mask_token" in flat,
            # Zero would mean that there are none.
            "layer_scale_init_value": (told.get("layer_scale_init_value") or 0.1) * scaled,
            "use_mean_pooling": told.get("use_mean_pooling", True),
        }
    return config
