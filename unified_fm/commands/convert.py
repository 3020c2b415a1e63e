"""Converts checkpoints of other libraries to ours, and ours to theirs.

    unified-fm convert import --from=roberta --file=DIR_OR_FILE --to=DIR [--verify]
    unified-fm convert export --checkpoint=DIR --to=hf-roberta --out=DIR

Families to import: bert, roberta, vit, augreg, beit (beit2), clip, xfm, x2vlm. Kinds to export:
hf-bert, hf-roberta, hf-vit, hf-beit, hf-clip (folders for transformers), xfm (the published names),
npz and npz-big-vision (Google's names). Files are read without PyTorch, nothing in them is run; a
name hf:OWNER/MODEL is downloaded. docs/checkpoints.md has a table of what each direction loses.
"""

import argparse
import dataclasses
import hashlib
import json
import logging
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from unified_fm import files, plugins
from unified_fm.checkpoint import store as checkpoint
from unified_fm.commands import _outputs, verify
from unified_fm.convert import config_values, families, hf_folder, hf_models, source
from unified_fm.convert.errors import CheckpointFormatError, ConversionError
from unified_fm.convert.readers.safetensors_file import open_safetensors, write_safetensors
from unified_fm.convert.readers.weights import parse_object, read_config
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, import_params
from unified_fm.convert.tables import augreg, xfm
from unified_fm.model_card import data as card_data
from unified_fm.model_card import page as card_page
from unified_fm.model_card.about import About
from unified_fm.models.config import EncoderConfig
from unified_fm.runtime import workdir

EXPORTS = (*hf_folder.KINDS, "xfm", "npz", "npz-big-vision")
BESIDE = "config.json"  # of a run: its config; of imported weights: what their config.json told


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line and converts; returns the exit status."""
    options = _parser(prog).parse_args(arguments)
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
        status = verify.tensors(table, foreign, params, options.allow)
        status |= verify.outputs(path, config, params)
    told = _told(options.family, path)
    checkpoint.save_params(options.to, params)
    if told:
        path = workdir.absolute(options.to) / BESIDE
        files.write_whole(path, json.dumps(told, indent=1))
    print(f"wrote {options.to}")
    return status


def _told(family: str, path: str) -> dict:
    """What is kept beside parameters: what they cannot tell, and the model that runs them."""
    told = {"source": source.of_hf(family, read_config(path))}
    try:
        if model := hf_models.read(path):
            told["model"] = model
    except ConversionError as error:
        print(f"no model of ours is kept beside the parameters: {error}")
    return told if told["source"] else {}


def numbers_of(directory: str) -> tuple[dict, str]:
    """What is known of a checkpoint beside its parameters, and where it stands.

    Of imported weights that is what their `config.json` said, of a run what its model was.

    Raises:
        ConversionError, CheckpointFormatError: the file is damaged or holds wrong values.
    """
    config, file = _beside(directory)
    if "source" in config:
        return source.checked(config["source"]), str(file)
    model = config_values.section(config, "model") if "model" in config else {}
    known = model.get("name") in plugins.names("models")  # no other may be loaded for a file
    plugin: Any = plugins.load("models", model["name"]) if known else None
    if plugin is None or not plugin.encoders:
        return {}, ""
    fields = dataclasses.fields(plugin)
    filled = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    encoder = {"eps": EncoderConfig.eps, "gelu": EncoderConfig.gelu}
    towers = {name: encoder | tower for name, tower in plugin.encoders.items()}
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
        _write_card(options)
    elif options.to == "xfm":
        arrays = export_params(xfm.TABLE, params, allow=options.allow, report=report)
        out = _file(out, "model.safetensors")
        write_safetensors(out, arrays, {"format": "pt"})
    else:
        arrays = export_params(augreg.TABLE, params, allow=options.allow, report=report)
        if options.to == "npz-big-vision":
            arrays = augreg.big_vision(arrays)
        out = _file(out, "model.npz")
        with files.whole(out) as temporary, open(temporary, "wb") as file:
            np.savez(file, **cast(Any, arrays))
    print(report)
    print(f"wrote {out}")
    return 0


def _write_card(options: argparse.Namespace) -> None:
    """README.md beside exported weights; one that somebody has written stays."""
    out = options.out
    told = parse_object(BESIDE, (out / BESIDE).read_bytes())
    arrays = open_safetensors(out / "model.safetensors")
    config, _ = _beside(options.checkpoint)
    if not isinstance(config.get("streams"), Mapping):
        config = {}  # of imported weights: it tells of no data
    about = About(
        name=out.resolve().name,
        info={
            "model": told["model_type"],
            "parameters": sum(arrays[name].size for name in arrays),
            "sha256": {"model.safetensors": _sha256(out / "model.safetensors")},
            "classes": told.get("id2label"),
        },
        config=config,
        used=card_data.used(config),
        library="transformers",
        exported=options.to,
    )
    try:
        card_page.write(out / "README.md", about)
    except FileExistsError as error:
        print(error)


def _beside(directory: str) -> tuple[dict, Any]:
    """(what `config.json` of a run or of imported weights says, the file); {} where there is none.

    Raises:
        ConversionError, CheckpointFormatError: the file is damaged.
    """
    folder = workdir.absolute(directory)
    folder = folder.parent if folder.name == "checkpoints" else folder
    file = folder / BESIDE
    return parse_object(str(file), file.read_bytes()) if file.exists() else {}, file


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(out: pathlib.Path, name: str) -> pathlib.Path:
    """`out` itself if it has the ending of `name`, else `name` in the folder `out`."""
    if out.suffix == pathlib.Path(name).suffix:
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / name


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    put.add_argument("--out", required=True, type=_outputs.local, help="folder or file to write")
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
