"""Golden files of `transformers` 5 modules with random weights: `golden/*.npz`.

Run once where PyTorch and transformers are installed: python tests/convert/make_golden.py
With the folder of all-MiniLM-L6-v2 as argument, only its sentence embeddings are written.

Each file holds `config` (JSON), `params/*` as `save_pretrained` writes them, `inputs/*` and
`outputs/*` of one forward pass in fp32 without dropout; images are normalised and NCHW.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZES = {
    "small": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "odd": {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 40,
    },
}


def main():
    GOLDEN.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for size, numbers in SIZES.items():
        bert = {"vocab_size": 61, "max_position_embeddings": 20, "layer_norm_eps": 1e-12}
        _text(
            f"bert_{size}", transformers.BertForPreTraining, transformers.BertConfig, bert | numbers
        )
        roberta = {
            **{"vocab_size": 61, "max_position_embeddings": 22, "type_vocab_size": 1},
            **{"layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        }
        name, cls = f"roberta_{size}", transformers.RobertaForMaskedLM
        _text(name, cls, transformers.RobertaConfig, roberta | numbers)
        vision = {"image_size": 24, "patch_size": 8, "layer_norm_eps": 1e-6}
        labels = {"num_labels": 7}
        config = transformers.ViTConfig(**vision, **numbers, **labels)
        _image(f"vit_{size}", transformers.ViTForImageClassification(config))
        for shared in (False, True) if size == "small" else (False,):
            config = transformers.BeitConfig(
                **vision,
                **numbers,
                use_relative_position_bias=not shared,
                use_shared_relative_position_bias=shared,
                layer_scale_init_value=0.1,
                use_mask_token=True,
                use_mean_pooling=False,
            )
            _image(f"beit_{'shared' if shared else size}", transformers.BeitModel(config))
        _clip(f"clip_{size}", numbers)
    _bicubic()
    torch.manual_seed(1)
    numbers = {"image_size": 15, "patch_size": 5, **SIZES["small"], "num_hidden_layers": 1}
    options = {"use_relative_position_bias": True, "layer_scale_init_value": 0.1, "num_labels": 3}
    config = transformers.BeitConfig(**numbers, **options)
    _image("beit_mean", transformers.BeitForImageClassification(config))


def _text(name, cls, config_cls, numbers):
    """A batch with padding and an odd length."""
    model = cls(config_cls(**numbers))
    ids = torch.randint(5, numbers["vocab_size"], (3, 13))
    lengths = torch.tensor([13, 9, 4])
    mask = (torch.arange(13)[None] < lengths[:, None]).long()
    pad = model.config.pad_token_id
    ids = torch.where(mask.bool(), ids, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "bert_" in name and "roberta" not in name:
        inputs["token_type_ids"] = torch.randint(0, 2, ids.shape)
    _save(name, model, inputs, _text_outputs)


def _text_outputs(model, inputs):
    out = model(**inputs, output_hidden_states=True)
    logits = out.prediction_logits if hasattr(out, "prediction_logits") else out.logits
    found = {"hidden": out.hidden_states[-1], "mlm_logits": logits}
    if hasattr(out, "seq_relationship_logits"):
        found["next_sentence_logits"] = out.seq_relationship_logits
    return found


def _image(name, model):
    size = model.config.image_size
    _save(name, model, {"pixel_values": torch.randn(2, 3, size, size)}, _image_outputs)


def _image_outputs(model, inputs):
    if getattr(model.config, "use_mean_pooling", False):
        # Here the norm follows the mean, so the last hidden states are not normalised.
        return {"pooled": model.beit(**inputs).pooler_output, "logits": model(**inputs).logits}
    if hasattr(model, "classifier"):
        hidden = model.vit(**inputs).last_hidden_state  # after the final norm
        return {"hidden": hidden, "logits": model(**inputs).logits}
    return {"hidden": model(**inputs).last_hidden_state}


def _clip(name, numbers):
    config = transformers.CLIPConfig(
        text_config={
            **numbers,
            **{"vocab_size": 61, "max_position_embeddings": 14, "bos_token_id": 1},
            **{"eos_token_id": 60, "pad_token_id": 0, "projection_dim": 12},
        },
        vision_config={**numbers, "image_size": 24, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    ids = torch.randint(2, 60, (3, 11))
    ids[0, 10], ids[1, 6], ids[2, 2] = 60, 60, 60
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 24, 24)}

    def outputs(model, inputs):
        out = model(**inputs)
        return {"text": out.text_embeds, "image": out.image_embeds, "logits": out.logits_per_text}

    _save(name, transformers.CLIPModel(config), inputs, outputs)


@torch.no_grad()
def _save(name, model, inputs, outputs):
    # The initial biases are zero and the norms one: noise makes every parameter count.
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        params = load_file(pathlib.Path(folder) / "model.safetensors")
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    arrays = {f"params/{key}": value for key, value in params.items()}
    arrays |= {f"inputs/{key}": value.numpy() for key, value in inputs.items()}
    arrays |= {f"outputs/{key}": value.numpy() for key, value in outputs(model, inputs).items()}
    np.savez(GOLDEN / f"{name}.npz", config=json.dumps(config), **arrays)


@torch.no_grad()
def _minilm(folder):
    """Sentence embeddings of real BERT weights: mean over the real tokens, length 1."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sentences = [
        "A man is eating pasta.",
        "Someone has a meal of noodles.",
        "The stars are far away.",
    ]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    arrays = {f"inputs/{key}": value.numpy() for key, value in inputs.items()}
    np.savez(GOLDEN / "minilm.npz", **arrays, **{"outputs/sentence": pooled.numpy()})


def _bicubic():
    """PyTorch's bicubic resize of positions, up and down."""
    arrays = {"position": torch.randn(1, 5 * 5 + 1, 6)}
    grid = arrays["position"][:, 1:].reshape(1, 5, 5, 6).permute(0, 3, 1, 2)
    for side in (3, 8, 13):
        resized = torch.nn.functional.interpolate(grid, (side, side), mode="bicubic")
        arrays[f"to_{side}"] = resized.permute(0, 2, 3, 1).reshape(1, side * side, 6)
    np.savez(GOLDEN / "bicubic.npz", **{key: value.numpy() for key, value in arrays.items()})


if __name__ == "__main__":
    _minilm(sys.argv[1]) if sys.argv[1:] else main()
