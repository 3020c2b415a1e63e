"""Which model of ours runs the weights of a Hugging Face folder: its `config.json` tells.

    model_options({"model_type": "bert", ...}) == {"name": "bert", "vocab_size": 30522, ...}

The result is what a config's `c.model` or a teacher's `model` holds.
"""

import os
from collections.abc import Mapping
from typing import Any

from unified_fm.convert import config_values, matching
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers import weights

GELU = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
ACTIVATIONS = {"erf": "gelu", "tanh": "gelu_new", "quick": "quick_gelu"}  # and back
PIXELS = "preprocessor_config.json"  # the file that tells how images are normalised
OLD_CLIP_END = 2  # the eos_token_id of old CLIP files: they mean the highest id of each text


def read(path: str | os.PathLike) -> dict[str, Any] | None:
    """The name and the options of our model for a folder, or for the folder of a file.

    With the `mean` and `std` of its images, if a `preprocessor_config.json` tells them: else they
    are those that models of this kind mostly have.

    Raises:
        ConversionError: as `model_options`; or no three numbers for a mean.
        CheckpointFormatError: a file of them is no JSON object.
    """
    config = weights.read_config(path)
    if not config:
        return None
    options = model_options(config)
    return options | (_normalisation(path) if "image_size" in options else {})


def model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The name and the options of our model for a `config.json`.

    Raises:
        ConversionError: a kind of model, an activation or an option that ours do not have, or a
            number that is missing.
    """
    kind = config_values.text(config, "model_type", None)
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
    positions = config_values.text(config, "position_embedding_type", "absolute")
    if positions != "absolute":
        raise ConversionError(f"positions of type {positions!r}")
    roberta = config["model_type"] == "roberta"
    return {
        "name": "bert",
        "vocab_size": config_values.integer(config, "vocab_size"),
        "text": _encoder(config),
        "max_positions": config_values.integer(config, "max_position_embeddings"),
        "token_types": config_values.integer(config, "type_vocab_size"),
        "pad_id": config_values.integer(config, "pad_token_id", 0),
        "position_offset": config["model_type"],
        "head_gelu": "erf" if roberta else None,
    }


def _vit(config: Mapping) -> dict[str, Any]:
    return {
        "name": "vit",
        **_image(config),
        "classes": _classes(config),
        "vision": _encoder(config),
    }


def _image(config: Mapping) -> dict[str, Any]:
    channels = config_values.integer(config, "num_channels", default=3)
    sizes = {name: config_values.side(config, name) for name in ("image_size", "patch_size")}
    if channels != 3 or sizes["image_size"] % sizes["patch_size"]:
        raise ConversionError(
            f"images of {channels} channels, {sizes['image_size']} pixels and patches of "
            f"{sizes['patch_size']}; ours have 3 channels and a whole number of patches"
        )
    return sizes


def _normalisation(path: str | os.PathLike) -> dict[str, Any]:
    told = weights.read_config(path, PIXELS)
    found = {}
    for ours, theirs in {"mean": "image_mean", "std": "image_std"}.items():
        if (values := told.get(theirs)) is None:
            continue
        if not isinstance(values, list) or [type(x) for x in values] != [float] * 3:
            raise ConversionError(f"{PIXELS}: {theirs} is {values!r}; three numbers are needed")
        found[ours] = tuple(values)
    return found


def _beit(config: Mapping) -> dict[str, Any]:
    tables = ("use_relative_position_bias", "use_shared_relative_position_bias")
    vision = {
        "layer_scale": config_values.number(config, "layer_scale_init_value", default=0.1) or None,
        "relative_position_bias": any([config_values.flag(config, n, False) for n in tables]),
        "key_bias": False,
    }
    mean = config_values.flag(config, "use_mean_pooling", True)
    return {
        **_vit(config),
        "vision": _encoder(config) | vision,
        "pool": "mean_before_norm" if mean else "class",
        "mask_token": config_values.flag(config, "use_mask_token", False),
        "absolute_positions": config_values.flag(config, "use_absolute_position_embeddings", False),
    }


def _clip(config: Mapping) -> dict[str, Any]:
    text = config_values.section(config, "text_config")
    vision = config_values.section(config, "vision_config")
    words = config_values.integer(text, "vocab_size")
    end = config_values.integer(text, "eos_token_id", 0, default=words - 1)
    return {
        "name": "clip",
        "vocab_size": words,
        "end_id": None if end == OLD_CLIP_END else end,
        **_image(vision),
        "projection_dim": config_values.integer(config, "projection_dim"),
        "text": _encoder(text),
        "vision": _encoder(vision),
        "max_positions": config_values.integer(text, "max_position_embeddings"),
    }


def _encoder(config: Mapping) -> dict[str, Any]:
    act = config_values.text(config, "hidden_act")
    if act not in GELU:
        raise ConversionError(f"activation {act!r}; possible: {', '.join(GELU)}")
    encoder = {
        "layers": config_values.integer(config, "num_hidden_layers"),
        "width": config_values.integer(config, "hidden_size"),
        "heads": config_values.integer(config, "num_attention_heads"),
        "mlp_width": config_values.integer(config, "intermediate_size"),
        "eps": float(config_values.number(config, "layer_norm_eps")),
        "gelu": GELU[act],
    }
    if encoder["width"] % encoder["heads"]:
        width, heads = encoder["width"], encoder["heads"]
        raise ConversionError(f"hidden_size {width} is not a multiple of {heads} heads")
    return encoder


def _classes(config: Mapping) -> int | None:
    """Number of classes, if there is such a head; with two, the names may be left out."""
    heads = config_values.texts(config, "architectures")
    labels = config_values.labels(config, "id2label")
    if not any("ImageClassification" in name for name in heads):
        return None
    return 2 if labels is None else len(labels)


_MODELS = {"bert": _text, "roberta": _text, "vit": _vit, "beit": _beit, "clip": _clip}
