"""Whether a conversion kept everything: its tensors exported again, its outputs run beside theirs.

What our models give is named here as transformers has it: `hidden`, `pooled`, `logits`. Nothing of
transformers or PyTorch is needed but for `their_outputs`, where they happen to be installed.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from unified_fm import plugins
from unified_fm.convert import config_values, hf_models, matching
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.table import export_params

# Outputs of transformers' models -> what `our_outputs` calls them.
NAMES = {
    "last_hidden_state": "hidden",
    "pooler_output": "pooled",
    "logits": "logits",
    "prediction_logits": "logits",
    "seq_relationship_logits": "next_sentence_logits",
    "text_embeds": "text",
    "image_embeds": "image",
    "logits_per_text": "logits",
}


def tensors(table, foreign: Mapping, params: Mapping, allow: Sequence[str]) -> int:
    """Exports again and compares with the file, tensor by tensor; returns 1 if one differs."""
    back = export_params(table, params, allow=allow)
    theirs = matching.recognise(table, foreign).rows  # by row and layer: spellings may differ
    shared = [(key, name) for key, name in matching.recognise(table, back).rows.items()]
    shared = [(theirs[key], name) for key, name in shared if key in theirs]
    worst = 0.0
    for there, name in shared:
        expected = np.asarray(foreign[there])
        same = np.shape(back[name]) == expected.shape
        difference = float(np.abs(back[name] - expected).max(initial=0)) if same else np.inf
        worst = max(worst, difference)
        if difference:
            print(f"  {there}: largest difference {difference:.3g}")
    print(f"verify: {len(shared)} tensors compared with the file, largest difference {worst:.3g}")
    return int(worst > 0 or not shared)


def outputs(path: str, config: Mapping, params: Mapping) -> int:
    """Runs our model and that of transformers on one random batch; returns 1 beyond 1e-4."""
    if not config:
        print("verify: outputs are not compared: there is no config.json beside the weights")
        return 0
    try:
        hf_models.model_options(config)
        import transformers  # pyright: ignore[reportMissingImports]  # optional

        name = (config_values.texts(config, "architectures") or ["AutoModel"])[0]
        model = getattr(transformers, name, transformers.AutoModel)
        # Without the flag it would unpickle a .bin file.
        model = model.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    except (ConversionError, ImportError, OSError) as error:
        print(f"verify: outputs are not compared: {str(error).splitlines()[0]}")
        return 0
    inputs = random_inputs(config)
    theirs = their_outputs(model.eval(), transformers.BatchEncoding(inputs, tensor_type="pt"))
    ours, worst = our_outputs(config, params, inputs), 0.0
    for key in sorted(ours.keys() & theirs.keys()):
        difference = float(np.abs(np.asarray(ours[key]) - theirs[key]).max())
        worst = max(worst, difference)
        print(f"verify: {key} {theirs[key].shape}, largest difference {difference:.3g}")
    return int(worst > 1e-4)


def their_outputs(model, inputs: Mapping) -> dict[str, np.ndarray]:
    """The outputs of a model of transformers by our names, all that it gives."""
    out, found = model(**inputs), {}
    base = out if model.base_model is model else model.base_model(**inputs)
    for theirs, ours in NAMES.items():
        value = out.get(theirs, base.get(theirs))
        if value is not None:
            found[ours] = value
    found = {name: value.detach().numpy() for name, value in found.items()}
    if getattr(model.config, "use_mean_pooling", False):
        # This BEiT normalises the mean of the patches only; ours also gives each normalised.
        patches = model.base_model.pooler.layernorm(base.last_hidden_state)[:, 1:].detach().numpy()
        found["hidden"] = np.concatenate([found["pooled"][:, None], patches], axis=1)
    return found


def random_inputs(config: Mapping, *, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of two in the arguments of transformers: padded texts, or normalised images."""
    model, found = hf_models.model_options(config), {}
    if "vocab_size" in model:
        found |= _random_texts(model, np.random.default_rng(seed))
    if "image_size" in model:
        shape = (2, 3, model["image_size"], model["image_size"])
        pixels = np.random.default_rng(seed).normal(size=shape)
        found["pixel_values"] = pixels.astype(np.float32)
    return found


def _random_texts(model: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
    pad = model.get("pad_id", 0)
    # RoBERTa numbers tokens from the one behind its pad's on.
    length = min(17, model["max_positions"] - 1 - max(1, pad))
    ids = rng.integers(5, model["vocab_size"], (2, length))
    mask = np.ones_like(ids)
    mask[1, length // 2 :] = 0
    ids = np.where(mask, ids, pad)
    if "end_id" in model:  # CLIP reads a text at its end; the highest id where none is told
        end = model["vocab_size"] - 1 if model["end_id"] is None else model["end_id"]
        ids[[0, 1], mask.sum(1) - 1] = end
    return {"input_ids": ids, "attention_mask": mask}


def our_outputs(config: Mapping, params: Mapping, inputs: Mapping) -> dict:
    """The outputs of our model with imported weights, for arguments of transformers.

    Args:
        config: the `config.json` of the weights.
        params: our tree.
        inputs: `input_ids`, `attention_mask`, `token_type_ids` i32[B L], `pixel_values` f[B 3 H W].

    Returns:
        `hidden` f[B L D] (of images f[B 1+N D]), `pooled` f[B D], and `logits` and
        `next_sentence_logits` where there are such heads; of CLIP `text` and `image` f[B E] and
        `logits` f[B B].
    """
    options = hf_models.model_options(config)
    kind, batch = options.pop("name"), {}
    if "pixel_values" in inputs:
        batch["image"] = inputs["pixel_values"].transpose(0, 2, 3, 1)
    if "input_ids" in inputs:
        shape = inputs["input_ids"].shape
        mask = inputs.get("attention_mask", np.ones(shape, bool)).astype(bool)
        batch |= {"text": inputs["input_ids"], "text_mask": mask}
        batch["segments"] = inputs.get("token_type_ids", np.zeros(shape, np.int32))
    model = plugins.build("models", kind, **options)
    has = params.keys()

    def run(net):
        views = net(batch)
        if kind == "clip":
            text, image = net.text_feature(views), net.image_feature(views)
            return {"text": text, "image": image, "logits": net.similarity(views)}
        hidden = views.text if kind == "bert" else views.image
        found = {"hidden": hidden}
        if "pooler" in has:
            found["pooled"] = net.pooled_text(hidden)
        elif config["model_type"] == "beit":
            found["pooled"] = hidden[:, 0]
        if "mlm_head" in has:
            found["logits"] = net.mlm_head(hidden)
        if "next_sentence_head" in has:
            found["next_sentence_logits"] = net.next_sentence(hidden)
        if "image_head" in has:
            found["logits"] = net.image_head(hidden[:, 0])
        return found

    return model.apply({"params": params}, method=run)
