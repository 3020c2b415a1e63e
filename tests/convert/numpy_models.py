"""What transformers computes from a folder, in NumPy: `config.json`, and arrays by name.

Written from the papers and the layouts of the files, not from our models; `test_source.py` holds it
against outputs of transformers (the golden files) before it uses it.
"""

import numpy as np
from scipy.special import erf


def outputs(config: dict, params: dict, inputs: dict) -> dict[str, np.ndarray]:
    """`hidden` f[B L D]; of CLIP `text` and `image` f[B E]; of BEiT with mean pooling `pooled`."""
    model = _Model(params)
    if config["model_type"] in ("bert", "roberta"):
        return {"hidden": _bert(config, model, inputs)}
    if config["model_type"] == "clip":
        return _clip(config, model, inputs)
    return _vision(config, model, inputs["pixel_values"])


class _Model:
    """Arrays by name, without the prefix of the base model."""

    def __init__(self, params):
        prefixes = ("bert.", "roberta.", "vit.", "beit.")
        self.arrays = {}
        for name, array in params.items():
            for prefix in prefixes:
                name = name.removeprefix(prefix)
            self.arrays[name] = array.astype(np.float64)

    def __getitem__(self, name):
        return self.arrays[name]

    def linear(self, x, name):
        return x @ self[f"{name}.weight"].T + self.arrays.get(f"{name}.bias", 0)

    def norm(self, x, name, eps):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        return x * self[f"{name}.weight"] + self[f"{name}.bias"]

    def attention(self, x, names, heads, bias=0):
        """Self-attention, by names of query, key, value and output; `bias` is added to logits."""
        query, key, value = (
            self.linear(x, name).reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
            for name in names[:3]
        )
        logits = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1]) + bias
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ value
        return self.linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), names[3])


def _act(config, x):
    if config["hidden_act"] == "gelu":
        return x * (1 + erf(x / np.sqrt(2))) / 2
    if config["hidden_act"] == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    assert config["hidden_act"] in ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def _bert(config, model, inputs):
    ids, eps = inputs["input_ids"], config["layer_norm_eps"]
    places = np.arange(ids.shape[1])[None]
    if config["model_type"] == "roberta":
        real = ids != config["pad_token_id"]
        places = np.cumsum(real, 1) * real + config["pad_token_id"]
    x = model["embeddings.word_embeddings.weight"][ids]
    x = x + model["embeddings.position_embeddings.weight"][places]
    types = inputs.get("token_type_ids", np.zeros_like(ids))
    x = x + model["embeddings.token_type_embeddings.weight"][types]
    x = model.norm(x, "embeddings.LayerNorm", eps)
    hidden = np.where(inputs["attention_mask"][:, None, None] == 1, 0, -1e30)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        names = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        names.append(f"{at}.attention.output.dense")
        y = x + model.attention(x, names, config["num_attention_heads"], hidden)
        x = model.norm(y, f"{at}.attention.output.LayerNorm", eps)
        y = _act(config, model.linear(x, f"{at}.intermediate.dense"))
        y = x + model.linear(y, f"{at}.output.dense")
        x = model.norm(y, f"{at}.output.LayerNorm", eps)
    return x


def _patches(model, name, pixels, patch):
    batch, _, side, _ = pixels.shape
    grid = side // patch
    x = pixels.reshape(batch, 3, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
    kernel = model[f"{name}.weight"].reshape(len(model[f"{name}.weight"]), -1)
    x = x.reshape(batch, grid * grid, -1) @ kernel.T
    return x + model.arrays.get(f"{name}.bias", 0)


def _vision(config, model, pixels):
    eps, heads = config["layer_norm_eps"], config["num_attention_heads"]
    x = _patches(model, "embeddings.patch_embeddings.projection", pixels, config["patch_size"])
    first = np.broadcast_to(model["embeddings.cls_token"], (len(x), 1, x.shape[2]))
    x = np.concatenate([first, x], 1) + model.arrays.get("embeddings.position_embeddings", 0)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        inner = f"{at}.attention.attention"
        names = [f"{inner}.{name}" for name in ("query", "key", "value")]
        names.append(f"{at}.attention.output.dense")
        bias = _relative(model.arrays.get(f"{inner}.relative_position_bias.{_TABLE}"))
        y = model.norm(x, f"{at}.layernorm_before", eps)
        y = model.attention(y, names, heads, bias)
        x = x + y * model.arrays.get(f"{at}.lambda_1", 1)
        y = model.norm(x, f"{at}.layernorm_after", eps)
        y = _act(config, model.linear(y, f"{at}.intermediate.dense"))
        y = model.linear(y, f"{at}.output.dense")
        x = x + y * model.arrays.get(f"{at}.lambda_2", 1)
    if config.get("use_mean_pooling"):
        return {"pooled": model.norm(x[:, 1:].mean(1), "pooler.layernorm", eps)}
    return {"hidden": model.norm(x, "layernorm", eps)}


_TABLE = "relative_position_bias_table"


def _relative(table):
    """A BEiT table as logits f[1 H S S]: a row for each offset of rows and columns, and three."""
    if table is None:
        return 0
    grid = (round((len(table) - 3) ** 0.5) + 1) // 2
    bias = np.empty((grid * grid + 1, grid * grid + 1, table.shape[1]))
    bias[0, 1:], bias[1:, 0], bias[0, 0] = table[-3], table[-2], table[-1]
    for one in range(grid * grid):
        for two in range(grid * grid):
            rows = one // grid - two // grid + grid - 1
            columns = one % grid - two % grid + grid - 1
            bias[one + 1, two + 1] = table[rows * (2 * grid - 1) + columns]
    return bias.transpose(2, 0, 1)[None]


def _clip(config, model, inputs):
    text, vision = config["text_config"], config["vision_config"]
    ids, eps = inputs["input_ids"], text["layer_norm_eps"]
    x = model["text_model.embeddings.token_embedding.weight"][ids]
    x = x + model["text_model.embeddings.position_embedding.weight"][: ids.shape[1]]
    later = np.triu(np.full((ids.shape[1],) * 2, -1e30), 1)
    x = _clip_layers(text, model, "text_model", x, later)
    x = model.norm(x, "text_model.final_layer_norm", eps)
    ends = ids if text["eos_token_id"] == 2 else ids == text["eos_token_id"]
    texts = model.linear(x[np.arange(len(x)), ends.argmax(1)], "text_projection")

    eps, patch = vision["layer_norm_eps"], vision["patch_size"]
    x = _patches(model, f"{_IMAGE}.patch_embedding", inputs["pixel_values"], patch)
    first = np.broadcast_to(model[f"{_IMAGE}.class_embedding"], (len(x), 1, x.shape[2]))
    x = np.concatenate([first, x], 1) + model[f"{_IMAGE}.position_embedding.weight"]
    x = model.norm(x, "vision_model.pre_layrnorm", eps)
    x = _clip_layers(vision, model, "vision_model", x, 0)
    x = model.norm(x[:, 0], "vision_model.post_layernorm", eps)
    images = model.linear(x, "visual_projection")
    length = {"axis": 1, "keepdims": True}
    return {
        "text": texts / np.linalg.norm(texts, **length),
        "image": images / np.linalg.norm(images, **length),
    }


_IMAGE = "vision_model.embeddings"


def _clip_layers(config, model, tower, x, bias):
    for layer in range(config["num_hidden_layers"]):
        at, eps = f"{tower}.encoder.layers.{layer}", config["layer_norm_eps"]
        names = [f"{at}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
        y = model.norm(x, f"{at}.layer_norm1", eps)
        x = x + model.attention(y, names, config["num_attention_heads"], bias)
        y = model.norm(x, f"{at}.layer_norm2", eps)
        y = _act(config, model.linear(y, f"{at}.mlp.fc1"))
        x = x + model.linear(y, f"{at}.mlp.fc2")
    return x
