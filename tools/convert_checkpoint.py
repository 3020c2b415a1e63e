"""Converts checkpoints of other libraries to ours, and ours to theirs.

    python tools/convert_checkpoint.py import --from=roberta --file=DIR_OR_FILE --to=DIR [--verify]
    python tools/convert_checkpoint.py export --checkpoint=DIR --to=hf-roberta --out=DIR

Families to import: bert, roberta, vit, augreg, beit (beit2), clip, xfm, x2vlm. Kinds to export:
hf-bert, hf-roberta, hf-vit, hf-beit, hf-clip (folders for transformers), xfm (the published names),
npz and npz-big-vision (Google's names). Files are read without PyTorch, nothing in them is run; a
name hf:OWNER/MODEL is downloaded. docs/checkpoints.md has a table of what each direction loses.
"""

import argparse
import dataclasses
import json
import logging
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from unified_fm import files, plugins
from unified_fm.checkpoint import store as checkpoint
from unified_fm.convert import config_values, families, hf_folder, hf_models, matching, source
from unified_fm.convert.errors import CheckpointFormatError, ConversionError
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.convert.readers.weights import parse_object, read_config
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, import_params
from unified_fm.convert.tables import augreg, xfm
from unified_fm.models import bert, clip, vit
from unified_fm.models import xfm as xfm_model
from unified_fm.models.config import EncoderConfig
from unified_fm.runtime import workdir

EXPORTS = (*hf_folder.KINDS, "xfm", "npz", "npz-big-vision")
BESIDE = "config.json"  # of a run: its config; of imported weights: what their config.json told
# Model -> tower -> what its encoder is unless the options say otherwise.
DEFAULTS = {
    "bert": {"text": bert.TEXT},
    "vit": {"vision": vit.VISION},
    "clip": {"text": clip.TEXT, "vision": clip.TOWER},
    "xfm": {"text": xfm_model.TEXT, "vision": xfm_model.VISION},
}
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and converts; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return import_checkpoint(options) if options.do == "import" else export_checkpoint(options)
    except (CheckpointFormatError, ConversionError, FileNotFoundError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def import_checkpoint(options: argparse.Namespace) -> int:
    """Foreign weights -> a checkpoint of ours that holds parameters only."""
    path = families.fetch(options.file)
    foreign, table = families.open_family(options.family, path)
    config, report = read_config(path), Report()
    heads = options.heads or families.heads_of(config)
    params = import_params(table, foreign, heads=heads, allow=options.allow, report=report)
    print(report)
    status = 0
    if options.verify:
        status = verify_tensors(table, foreign, params, options.allow)
        status |= verify_outputs(path, config, params)
    told = _told(options.family, config)
    checkpoint.save_params(options.to, params)
    if told:
        path = workdir.absolute(options.to) / BESIDE
        files.write_whole(path, json.dumps(told, indent=1))
    print(f"wrote {options.to}")
    return status


def _told(family: str, config: Mapping) -> dict:
    """What is kept beside parameters: what they cannot tell, and the model that runs them."""
    told = {"source": source.of_hf(family, config)}
    try:
        told["model"] = hf_models.model_options(config)
    except ConversionError as error:
        if config:
            print(f"no model of ours is kept beside the parameters: {error}")
    return told if told["source"] else {}


def numbers_of(directory: str) -> tuple[dict, str]:
    """What is known of a checkpoint beside its parameters, and where it stands.

    Of imported weights that is what their `config.json` said, of a run what its model was.

    Raises:
        ConversionError, CheckpointFormatError: the file is damaged or holds wrong values.
    """
    folder = workdir.absolute(directory)
    folder = folder.parent if folder.name == "checkpoints" else folder
    file = folder / BESIDE
    config = parse_object(str(file), file.read_bytes()) if file.exists() else {}
    if "source" in config:
        return source.checked(config["source"]), str(file)
    model = config_values.section(config, "model") if "model" in config else {}
    if model.get("name") not in DEFAULTS:
        return {}, ""
    fields = dataclasses.fields(plugins.load("models", model["name"]))
    filled = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    encoder = {"eps": EncoderConfig.eps, "gelu": EncoderConfig.gelu}
    towers = {name: encoder | tower for name, tower in DEFAULTS[model["name"]].items()}
    return source.of_model(filled | dict(model), towers), str(file)


def export_checkpoint(options: argparse.Namespace) -> int:
    """A checkpoint of ours -> a file or folder for another library."""
    params, report, out = checkpoint.load_params(options.checkpoint), Report(), options.out
    if options.to in hf_folder.KINDS:
        numbers, place = numbers_of(options.checkpoint)
        print(f"epsilon, GELU, ids and pooling: {place or 'the defaults of ' + options.to}")
        hf_folder.write_hf_folder(
            options.to,
            params,
            out,
            source=numbers,
            eps=options.eps,
            gelu=options.gelu,
            pool=options.pool,
            tokenizer=options.tokenizer,
            report=report,
        )
    elif options.to == "xfm":
        arrays = export_params(xfm.TABLE, params, allow=options.allow, report=report)
        out = _file(out, "model.safetensors")
        write_safetensors(out, arrays, {"format": "pt"})
    else:
        arrays = export_params(augreg.TABLE, params, allow=options.allow, report=report)
        if options.to == "npz-big-vision":
            arrays = augreg.big_vision(arrays)
        out = _file(out, "model.npz")
        _write_npz(out, arrays)
    print(report)
    print(f"wrote {out}")
    return 0


def verify_tensors(table, foreign: Mapping, params: Mapping, allow: Sequence[str]) -> int:
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


def verify_outputs(path: str, config: Mapping, params: Mapping) -> int:
    """Runs our model and that of transformers on one random batch; returns 1 beyond 1e-4."""
    if not config:
        print("verify: outputs are not compared: there is no config.json beside the weights")
        return 0
    try:
        hf_models.model_options(config)
        import transformers

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
    rng = np.random.default_rng(seed)
    if "text_config" in config:
        texts = random_inputs(config["text_config"], seed=seed)
        end = config["text_config"]["eos_token_id"]
        end = config["text_config"]["vocab_size"] - 1 if end == 2 else end
        texts["input_ids"][[0, 1], texts["attention_mask"].sum(1) - 1] = end
        return texts | random_inputs(config["vision_config"], seed=seed)
    if "image_size" in config:
        side = config["image_size"]
        return {"pixel_values": rng.normal(size=(2, 3, side, side)).astype(np.float32)}
    # RoBERTa numbers tokens from the one behind its pad's on.
    room = 1 + max(1, config.get("pad_token_id", 0))
    length = min(17, config["max_position_embeddings"] - room)
    ids = rng.integers(5, config["vocab_size"], (2, length))
    mask = np.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {
        "input_ids": np.where(mask, ids, config.get("pad_token_id", 0)),
        "attention_mask": mask,
    }


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

    def outputs(net):
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

    return model.apply({"params": params}, method=outputs)


def _file(out: str, name: str) -> str:
    """`out` itself if it has the ending of `name`, else `name` in the folder `out`."""
    if pathlib.Path(out).suffix == pathlib.Path(name).suffix:
        return out
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    return os.path.join(out, name)


def _write_npz(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="do", required=True)
    get = commands.add_parser("import", help="foreign weights -> our checkpoint")
    get.add_argument("--from", dest="family", required=True, choices=list(families.FAMILIES))
    get.add_argument("--file", required=True, help="a file, a folder, or hf:OWNER/MODEL")
    get.add_argument("--to", required=True, help="directory of the new checkpoint")
    get.add_argument("--heads", type=int, help="attention heads, where no config.json tells")
    get.add_argument("--verify", action="store_true", help="compare tensors and outputs")
    put = commands.add_parser("export", help="our checkpoint -> weights of another library")
    put.add_argument("--checkpoint", required=True, help="directory of our checkpoint")
    put.add_argument("--to", required=True, choices=EXPORTS)
    put.add_argument("--out", required=True, help="folder or file to write")
    put.add_argument("--eps", type=float, help="of the layer norms, instead of the source's")
    put.add_argument("--gelu", choices=("erf", "tanh", "quick"), help="instead of the source's")
    put.add_argument(
        "--pool", choices=("mean", "class"), help="of hf-beit, instead of the source's"
    )
    put.add_argument("--tokenizer", help="folder whose tokenizer files are copied")
    for command in (get, put):
        command.add_argument(
            "--allow", action="append", default=[], help="regex of names that may differ; repeat"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
