"""Converts checkpoints of other libraries to ours, and ours to theirs.

    python tools/convert_checkpoint.py import --from=roberta --file=DIR_OR_FILE --to=DIR [--verify]
    python tools/convert_checkpoint.py export --checkpoint=DIR --to=hf-roberta --out=DIR

Families to import: bert, roberta, vit, augreg, beit (beit2), clip, xfm. Kinds to export: hf-bert,
hf-roberta, hf-vit, hf-beit (folders for transformers), xfm (the published names, safetensors), npz
and npz-big-vision (Google's names). Files are read without PyTorch and nothing in them is run; a
name hf:OWNER/MODEL is downloaded. docs/checkpoints.md has a table of what each direction loses.
"""

import argparse
import logging
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from unified_fm import checkpoint
from unified_fm.convert import augreg, families, hf_folder, matching, xfm
from unified_fm.convert.errors import CheckpointFormatError, ConversionError
from unified_fm.convert.rows import Report
from unified_fm.convert.safetensors_file import write_safetensors
from unified_fm.convert.table import export_params, import_params
from unified_fm.convert.weights import read_config
from unified_fm.models import bert, vit

EXPORTS = (*hf_folder.KINDS, "xfm", "npz", "npz-big-vision")


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
    checkpoint.save_params(options.to, params)
    print(f"wrote {options.to}")
    return status


def export_checkpoint(options: argparse.Namespace) -> int:
    """A checkpoint of ours -> a file or folder for another library."""
    params, report, out = checkpoint.load_params(options.checkpoint), Report(), options.out
    if options.to in hf_folder.KINDS:
        hf_folder.write_hf_folder(
            options.to,
            params,
            out,
            eps=options.eps,
            gelu=options.gelu,
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
    for source, name in shared:
        expected = np.asarray(foreign[source])
        same = np.shape(back[name]) == expected.shape
        difference = float(np.abs(back[name] - expected).max(initial=0)) if same else np.inf
        worst = max(worst, difference)
        if difference:
            print(f"  {source}: largest difference {difference:.3g}")
    print(f"verify: {len(shared)} tensors compared with the file, largest difference {worst:.3g}")
    return int(worst > 0 or not shared)


def verify_outputs(path: str, config: Mapping, params: Mapping) -> int:
    """Runs our model and that of transformers on one random batch; returns 1 beyond 1e-4."""
    kind = config.get("model_type")
    if kind not in ("bert", "roberta", "vit", "beit"):
        print(f"verify: no comparison of outputs for {kind or 'weights without config.json'}")
        return 0
    if kind == "beit" and config.get("use_mean_pooling", True):
        print("verify: outputs are not compared: this BEiT pools before its norm, ours after")
        return 0
    try:
        import transformers

        model = transformers.AutoModel
        # Without the flag it would unpickle a .bin file.
        model = model.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    except (ImportError, OSError) as error:
        print(f"verify: outputs are not compared: {str(error).splitlines()[0]}")
        return 0
    inputs = random_inputs(config)
    theirs = model.eval()(**transformers.BatchEncoding(inputs, tensor_type="pt"))
    forward = text_outputs if kind in ("bert", "roberta") else image_outputs
    ours = np.asarray(forward(config, params, **inputs)["hidden"])
    difference = float(np.abs(ours - theirs.last_hidden_state.detach().numpy()).max())
    print(f"verify: last hidden states {ours.shape}, largest difference {difference:.3g}")
    return int(difference > 1e-4)


def random_inputs(config: Mapping, *, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of two in the arguments of transformers: padded texts, or normalised images."""
    rng = np.random.default_rng(seed)
    if "image_size" in config:
        side = config["image_size"]
        return {"pixel_values": rng.normal(size=(2, 3, side, side)).astype(np.float32)}
    length = min(17, config["max_position_embeddings"] - 2)
    ids = rng.integers(5, config["vocab_size"], (2, length))
    mask = np.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {
        "input_ids": np.where(mask, ids, config.get("pad_token_id", 0)),
        "attention_mask": mask,
    }


def text_outputs(config, params, input_ids, attention_mask, token_type_ids=None) -> dict:
    """hidden f[B L D] and, where there are heads, their logits, of imported BERT or RoBERTa."""
    model = bert.Model(
        vocab_size=config["vocab_size"],
        text=_encoder(config),
        max_positions=config["max_position_embeddings"],
        token_types=config["type_vocab_size"],
        pad_id=config["pad_token_id"],
        position_offset=config["model_type"],
    )
    batch = {"text": input_ids, "text_mask": attention_mask.astype(bool)}
    if token_type_ids is not None:
        batch["segments"] = token_type_ids
    variables = {"params": params}
    found = {"hidden": model.apply(variables, batch).text}
    hidden = found["hidden"]
    if "mlm_head" in params:
        found["mlm_logits"] = model.apply(variables, hidden, method=lambda net, x: net.mlm_head(x))
    if "next_sentence_head" in params:
        found["next_sentence_logits"] = model.apply(variables, hidden, method="next_sentence")
    return found


def image_outputs(config, params, pixel_values) -> dict:
    """hidden f[B 1+N D] and, where there is a head, class logits, of an imported ViT or BEiT."""
    vision = params["vision"]
    model = vit.Model(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        classes=params["image_head"]["bias"].size if "image_head" in params else None,
        vision=_encoder(config)
        | {
            "layer_scale": 0.1 if "scale_attn" in vision["layer_00"] else None,
            "relative_position_bias": "relative_position_bias" in vision["layer_00"],
            "key_bias": "bias" in vision["layer_00"]["self_attn"]["key"],
        },
        mask_token="mask_token" in vision,
        absolute_positions="position" in vision,
    )
    variables = {"params": params}
    hidden = model.apply(variables, {"image": pixel_values.transpose(0, 2, 3, 1)}).image
    found = {"hidden": hidden}
    if "image_head" in params:
        found["logits"] = model.apply(variables, hidden[:, 0], method="image_head")
    return found


def _encoder(config) -> dict:
    return {
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "mlp_width": config["intermediate_size"],
        "eps": config["layer_norm_eps"],
        "gelu": {"gelu": "erf", "gelu_new": "tanh"}[config["hidden_act"]],
    }


def _file(out: str, name: str) -> str:
    """`out` itself if it has the ending of `name`, else `name` in the folder `out`."""
    if pathlib.Path(out).suffix == pathlib.Path(name).suffix:
        return out
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    return os.path.join(out, name)


def _write_npz(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    with open(f"{path}.partial", "wb") as file:
        np.savez(file, **arrays)
    os.replace(f"{path}.partial", path)


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
    put.add_argument("--eps", type=float, help="of the layer norms, for config.json")
    put.add_argument("--gelu", choices=("erf", "tanh"), default="erf")
    put.add_argument("--tokenizer", help="folder whose tokenizer files are copied")
    for command in (get, put):
        command.add_argument(
            "--allow", action="append", default=[], help="regex of names that may differ; repeat"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
