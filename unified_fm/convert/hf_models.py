"""Which model of ours runs the weights of a Hugging Face folder: its `config.json` tells.

    model_options({"model_type": "bert", ...}) == {"name": "bert", "vocab_size": 30522, ...}

The result is what a config's `c.model` or a teacher's `model` holds.
"""

from collections.abc import Mapping
from typing import Any

from unified_fm.convert import matching
from unified_fm.convert.errors import ConversionError

GELU = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}


def model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The name and the options of our model for a `config.json`.

    Raises:
        ConversionError: a kind of model, an activation or an option that ours do not have, or a
            number that is missing.
    """
    kind = config.get("model_type")
    if kind not in _MODELS:
        hint = matching.nearest(str(kind), _MODELS)
        raise ConversionError(
            f"config.json tells of model_type {kind!r}{hint}; possible: {', '.join(_MODELS)}"
        )
    try:
        return _MODELS[kind](config)
    except KeyError as error:
        raise ConversionError(f"config.json of this {kind} has no {error}") from error


def _text(config: Mapping) -> dict[str, Any]:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ConversionError(f"positions of type {config['position_embedding_type']!r}")
    return {
        "name": "bert",
        "vocab_size": config["vocab_size"],
        "text": _encoder(config),
        "max_positions": config["max_position_embeddings"],
        "token_types": config["type_vocab_size"],
        "pad_id": config["pad_token_id"],
        "position_offset": config["model_type"],
        "head_gelu": "erf" if config["model_type"] == "roberta" else None,
    }


def _vit(config: Mapping) -> dict[str, Any]:
    return {
        "name": "vit",
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "classes": _classes(config),
        "vision": _encoder(config),
    }


def _beit(config: Mapping) -> dict[str, Any]:
    tables = ("use_relative_position_bias", "use_shared_relative_position_bias")
    vision = {
        "layer_scale": config.get("layer_scale_init_value", 0.1) or None,
        "relative_position_bias": any(config.get(name, False) for name in tables),
        "key_bias": False,
    }
    return {
        **_vit(config),
        "vision": _encoder(config) | vision,
        "pool": "mean_before_norm" if config.get("use_mean_pooling", True) else "class",
        "mask_token": config.get("use_mask_token", False),
        "absolute_positions": config.get("use_absolute_position_embeddings", False),
    }


def _clip(config: Mapping) -> dict[str, Any]:
    text, vision = config["text_config"], config["vision_config"]
    end = text.get("eos_token_id", text["vocab_size"] - 1)
    return {
        "name": "clip",
        "vocab_size": text["vocab_size"],
        "end_id": None if end == 2 else end,  # old files say 2 and mean the highest id
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "projection_dim": config["projection_dim"],
        "text": _encoder(text),
        "vision": _encoder(vision),
        "max_positions": text["max_position_embeddings"],
    }


def _encoder(config: Mapping) -> dict[str, Any]:
    act = config["hidden_act"]
    if act not in GELU:
        raise ConversionError(f"activation {act!r}; possible: {', '.join(GELU)}")
    return {
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "mlp_width": config["intermediate_size"],
        "eps": config["layer_norm_eps"],
        "gelu": GELU[act],
    }


def _classes(config: Mapping) -> int | None:
    """Number of classes, if there is such a head; with two, the names may be left out."""
    heads = [name for name in config.get("architectures") or () if "ImageClassification" in name]
    return len(config.get("id2label", (0, 1))) if heads else None


_MODELS = {"bert": _text, "roberta": _text, "vit": _vit, "beit": _beit, "clip": _clip}
