"""Against `transformers` itself, where it and PyTorch are installed: -m torch."""

import functools
import json

import jax
import numpy as np
import pytest

from unified_fm.commands import convert, verify
from unified_fm.convert import families

pytestmark = pytest.mark.torch


KINDS = ("bert", "roberta", "vit", "beit", "clip")


def random_model(seed):
    """A random configuration and weights of one of the kinds."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    sizes = random_sizes(rng)
    words = int(rng.integers(30, 90))
    text = {"vocab_size": words, "max_position_embeddings": int(rng.integers(12, 30))}
    patch = int(rng.choice([3, 4]))
    image = {"patch_size": patch, "image_size": patch * int(rng.integers(2, 6))}
    if kind == "bert":
        names = ["BertForMaskedLM", "BertForPreTraining", "BertModel"]
        config = transformers.BertConfig(**text, **sizes, pad_token_id=int(rng.integers(5)))
    elif kind == "roberta":
        names = ["RobertaForMaskedLM"]
        pad = {"pad_token_id": int(rng.integers(5))}
        config = transformers.RobertaConfig(**text, **sizes, **pad, type_vocab_size=1)
    elif kind == "vit":
        names = ["ViTForImageClassification"]
        config = transformers.ViTConfig(**image, **sizes, num_labels=int(rng.integers(2, 9)))
    elif kind == "beit":
        mean = bool(seed % 2)
        names = ["BeitForImageClassification"] if mean else ["BeitModel"]
        options = {"use_relative_position_bias": True, "use_mask_token": bool(rng.integers(2))}
        options |= {"use_mean_pooling": mean, "layer_scale_init_value": 0.1}
        options["use_absolute_position_embeddings"] = bool(rng.integers(2))
        config = transformers.BeitConfig(**image, **sizes, **options)
    else:
        names = ["CLIPModel"]
        end = int(rng.choice([2, words - 1, words // 2]))
        text |= random_sizes(rng) | {"eos_token_id": end, "pad_token_id": 1, "bos_token_id": 0}
        vision = image | random_sizes(rng)
        config = transformers.CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=int(rng.integers(3, 20))
        )
    model = getattr(transformers, str(rng.choice(names)))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return kind, model.eval()


def random_sizes(rng):
    """Sizes, activation and epsilon of a stack."""
    heads = int(rng.integers(1, 5))
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * int(rng.choice([4, 6, 8])),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "intermediate_size": int(rng.integers(8, 40)),
        "hidden_act": str(rng.choice(["gelu", "gelu_new", "gelu_fast", "quick_gelu"])),
        "layer_norm_eps": float(rng.choice([1e-2, 1e-5, 1e-12])),
    }


def outputs(model, inputs):
    """What transformers computes."""
    import torch

    with torch.no_grad():
        inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return verify.their_outputs(model, inputs)


@pytest.mark.parametrize(
    "seed", [*range(9), *(pytest.param(i, marks=pytest.mark.nightly) for i in range(9, 20))]
)
def test_A8_outputs_and_round_trip_of_random_models(seed, tmp_path):
    kind, model = random_model(seed)
    model.save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    params = families.load(kind, tmp_path / "theirs")
    inputs = verify.random_inputs(config, seed=seed)
    ours = jax.jit(functools.partial(verify.our_outputs, config))(params, inputs)
    theirs = outputs(model, inputs)
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, atol=1e-5, rtol=0, err_msg=key)

    # No flag: epsilon, GELU, ids and pooling come back because they are kept beside the parameters.
    there, back = str(tmp_path / "params"), str(tmp_path / "ours")
    source = f"--file={tmp_path / 'theirs'}"
    assert convert.main(["import", f"--from={kind}", source, f"--to={there}"]) == 0
    export = ["export", f"--checkpoint={there}", f"--to=hf-{kind}", f"--out={back}"]
    assert convert.main(export) == 0
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for key, value in outputs(again.eval(), inputs).items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    for name, value in again.state_dict().items():
        assert value.numpy().tobytes() == model.state_dict()[name].numpy().tobytes(), name
