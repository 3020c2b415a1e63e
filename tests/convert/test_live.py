"""Against `transformers` itself, where it and PyTorch are installed: -m torch."""

import functools
import json

import jax
import numpy as np
import pytest

from tools import convert_checkpoint
from unified_fm.convert import families, hf_folder

pytestmark = pytest.mark.torch


def random_model(seed):
    """A random configuration and weights of one of the four kinds."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 5))
    sizes = {
        "num_attention_heads": heads,
        "hidden_size": heads * int(rng.choice([4, 6, 8])),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "intermediate_size": int(rng.integers(8, 40)),
        "hidden_act": str(rng.choice(["gelu", "gelu_new"])),
        "layer_norm_eps": float(rng.choice([1e-5, 1e-6, 1e-12])),
    }
    text = {"vocab_size": int(rng.integers(30, 90)), "max_position_embeddings": 30}
    image = {"patch_size": 4, "image_size": 4 * int(rng.integers(2, 6))}
    torch.manual_seed(seed)
    kind = ["bert", "roberta", "vit", "beit"][seed % 4]
    if kind == "bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**text, **sizes))
    elif kind == "roberta":
        config = transformers.RobertaConfig(**text, **sizes, type_vocab_size=1)
        model = transformers.RobertaForMaskedLM(config)
    elif kind == "vit":
        config = transformers.ViTConfig(**image, **sizes, num_labels=5)
        model = transformers.ViTForImageClassification(config)
    else:
        config = transformers.BeitConfig(
            **image,
            **sizes,
            use_relative_position_bias=True,
            use_mask_token=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.1,
        )
        model = transformers.BeitModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return kind, model.eval()


def outputs(model, inputs):
    """hidden, and logits where there is a head."""
    import torch

    with torch.no_grad():
        out = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        base = getattr(model, model.base_model_prefix, model)
        hidden = base(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    found = {"hidden": hidden.last_hidden_state.numpy()}
    return found | ({"logits": out.logits.numpy()} if hasattr(out, "logits") else {})


@pytest.mark.parametrize("seed", range(20))
def test_outputs_and_round_trip(seed, tmp_path):
    kind, model = random_model(seed)
    model.save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    params = families.load(kind, tmp_path / "theirs")
    inputs = convert_checkpoint.random_inputs(config, seed=seed)
    text = kind in ("bert", "roberta")
    forward = convert_checkpoint.text_outputs if text else convert_checkpoint.image_outputs
    ours = jax.jit(functools.partial(forward, config))(params, **inputs)
    theirs = outputs(model, inputs)
    for key, value in theirs.items():
        mine = ours["mlm_logits"] if text and key == "logits" else ours[key]
        np.testing.assert_allclose(mine, value, atol=1e-5, rtol=0, err_msg=key)

    gelu = {"gelu": "erf", "gelu_new": "tanh"}[config["hidden_act"]]
    eps = config["layer_norm_eps"]
    hf_folder.write_hf_folder(f"hf-{kind}", params, tmp_path / "ours", eps=eps, gelu=gelu)
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    if kind != "beit":  # our export says mean pooling, as X-FM's encoder has it
        for key, value in outputs(again.eval(), inputs).items():
            np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    for name, value in again.state_dict().items():
        expected = model.state_dict()[name.replace("pooler.layernorm", "layernorm")]
        assert value.numpy().tobytes() == expected.numpy().tobytes(), name
