"""What weights cannot tell: epsilon, GELU, ids, pooling. Kept beside a checkpoint, given back.

    {"text": {"positions": "roberta", "hidden_act": "gelu", "layer_norm_eps": 1e-05,
              "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}}

One dict per tower, in the names of Hugging Face. It comes from the `config.json` of imported
weights (`of_hf`), from the options of a model of ours that was trained (`of_model`), or from the
file that keeps it (`checked`); `hf_folder` writes it into the `config.json` of an export.
"""

import functools
from collections.abc import Mapping
from typing import Any

from unified_fm.convert import config_values, hf_models
from unified_fm.convert.errors import ConversionError

# The tower of a family whose config.json has no sections.
_TOWERS = {
    **dict.fromkeys(("bert", "roberta"), "text"),
    **dict.fromkeys(("vit", "beit", "beit2"), "vision"),
}
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
_ID = functools.partial(config_values.integer, least=0)
# Known keys of a tower, and what checks each.
_ENCODER = {
    "hidden_act": config_values.text,
    "layer_norm_eps": config_values.number,
    **dict.fromkeys(_RATES, config_values.number),
}
_KNOWN = {
    "text": {**_ENCODER, "pad_token_id": _ID, "bos_token_id": _ID, "eos_token_id": _ID},
    "vision": {
        **_ENCODER,
        "use_mean_pooling": config_values.flag,
        "layer_scale_init_value": functools.partial(config_values.number, most=1e6),
    },
}
POSITIONS = ("bert", "roberta", "clip")  # how a text is numbered


def of_hf(family: str, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a Hugging Face `config.json` tells of its towers; {} if it tells nothing of the kind.

    Raises:
        ConversionError: a value of the wrong type or range.
    """
    told = {_TOWERS[family]: config} if family in _TOWERS else {}
    if family == "clip":
        sections = {name: f"{name}_config" for name in _KNOWN}
        told = {
            name: config_values.section(config, key)
            for name, key in sections.items()
            if config.get(key) is not None
        }
    source = {name: _tower(name, tower) for name, tower in told.items()}
    source = {name: tower for name, tower in source.items() if tower}
    if "text" in source:
        source["text"]["positions"] = family
    if "vision" in source and (labels := config_values.labels(config, "id2label")):
        source["vision"]["labels"] = labels
    return source


def checked(found: Any) -> dict[str, dict[str, Any]]:
    """What `of_hf` gave, read back from a file: known keys only, each of its type.

    Raises:
        ConversionError: a value of the wrong type or range.
    """
    if not isinstance(found, Mapping):
        config_values.refuse("source", found, "an object")
    towers = {name: config_values.section(found, name) for name in _KNOWN if name in found}
    source = {name: _tower(name, tower) for name, tower in towers.items()}
    if "text" in towers and "positions" in towers["text"]:
        source["text"]["positions"] = _positions(towers["text"]["positions"])
    if "vision" in towers and (labels := config_values.texts(towers["vision"], "labels")):
        source["vision"]["labels"] = labels
    return source


def of_model(
    model: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What the options of a model of ours tell, for the export of a run.

    Args:
        model: name and options, as in a run's config, all defaults filled in.
        defaults: of each tower's encoder that the model has.

    Raises:
        ConversionError: a value of the wrong type or range.
    """
    source = {}
    for name, default in defaults.items():
        encoder = {**default, **config_values.section({name: model.get(name) or {}}, name)}
        gelu = config_values.text(encoder, "gelu")
        if gelu not in hf_models.ACTIVATIONS:
            config_values.refuse(f"{name}.gelu", gelu, "one of erf, tanh, quick")
        source[name] = {
            "hidden_act": hf_models.ACTIVATIONS[gelu],
            "layer_norm_eps": config_values.number(encoder, "eps"),
        }
    if "text" in source and model["name"] == "clip":
        end = config_values.integer(model, "end_id", 0, default=None)
        end = hf_models.OLD_CLIP_END if end is None else end
        source["text"] |= {"positions": "clip", "eos_token_id": end}
    elif "text" in source:
        source["text"]["positions"] = _positions(model["position_offset"])
        source["text"]["pad_token_id"] = config_values.integer(model, "pad_id", 0)
    if model["name"] == "vit":
        source["vision"]["use_mean_pooling"] = model["pool"] != "class"
    return source


def _tower(name: str, config: Mapping) -> dict[str, Any]:
    found = {key: check(config, key, default=None) for key, check in _KNOWN[name].items()}
    return {key: value for key, value in found.items() if value is not None}


def _positions(value: Any) -> str:
    if value not in POSITIONS:
        raise ConversionError(f"positions are {value!r}; possible: {', '.join(POSITIONS)}")
    return value
