"""`unified-fm data tokenizer`: a vocabulary trained on the texts of a source."""

import argparse
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import tokenizers

from unified_fm.commands import _outputs
from unified_fm.data import texts as all_texts
from unified_fm.data import tokenizer_training
from unified_fm.data.tokenizer import Tokenizer

_KINDS = {
    "wordpiece": tokenizer_training.train_wordpiece,
    "bpe": tokenizer_training.train_byte_pairs,
}
_FILE, _ABOUT = "tokenizer.json", "about.json"
_ASKED = ("source", "kind", "vocab", "fields")  # what must be the same for the same vocabulary


def add(commands: Any) -> None:
    """Adds the verb to those of `unified-fm data`."""
    command = commands.add_parser(
        "tokenizer", help="a vocabulary trained on the texts of a source: --kind=wordpiece or bpe"
    )
    command.add_argument("source", help='a source string: "jsonl:FILE", "array_record:STEM", ...')
    command.add_argument("--vocab", type=int, default=32000, help="ids, at most (32000)")
    command.add_argument(
        "--kind",
        choices=tuple(_KINDS),
        default="wordpiece",
        help="wordpiece, lower case, as BERT's (default), or byte-level bpe, as RoBERTa's",
    )
    command.add_argument("--out", required=True, type=_outputs.local, help="folder to write")
    command.add_argument(
        "--fields",
        default=",".join(all_texts.FIELDS),
        help=f"of a record, whose texts count ({','.join(all_texts.FIELDS)})",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> str:
    """Trains it and writes its folder; says what was done.

    Raises:
        ValueError: the folder has another content, no texts, or no room for the letters.
    """
    asked = {
        "source": options.source,
        "kind": options.kind,
        "vocab": options.vocab,
        "fields": options.fields,
    }
    out = options.out
    there = _there(out, asked)
    progress = not options.quiet
    texts = all_texts.Texts(options.source, options.fields.split(","), progress=progress)
    trained: Tokenizer = _KINDS[options.kind](texts, options.vocab, progress=progress)
    about = asked | {
        "size": trained.vocab_size,
        "records": texts.records,
        "skipped": dict(texts.skipped),
        "texts": texts.count,
        "characters": texts.characters,
        "sha256": _hash(trained.text()),
        "tokenizers": tokenizers.__version__,
    }
    said = (
        f"{trained.vocab_size:,} pieces from {texts.count:,} texts of {texts.records:,} records"
        f" ({texts.characters:,} characters), sha256 {about['sha256'][:12]}"
    )
    said += "".join(f"\n{count:,} records skipped: {why}" for why, count in texts.skipped.items())
    if there is not None:
        if there != about["sha256"]:
            raise ValueError(
                f"{out} holds another vocabulary (sha256 {there[:12]}) than these texts give now"
                f" (sha256 {about['sha256'][:12]}); choose another --out"
            )
        return f"{said}\n{out} has it already"
    _write(out, {_FILE: trained.text(), _ABOUT: json.dumps(about, indent=2) + "\n"})
    return f"{said}\nwrote {out / _FILE}"


def _there(out: pathlib.Path, asked: Mapping[str, Any]) -> str | None:
    """The hash of the vocabulary that lies there; None: the folder is empty, or there is none.

    Raises:
        ValueError: something else lies there, or a vocabulary that was asked for otherwise.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise ValueError(f"{out} is a file; --out is a folder")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return None
    if names != sorted((_FILE, _ABOUT)):
        raise ValueError(f"{out} is not empty ({', '.join(names[:5])}); choose another --out")
    try:
        about = json.loads((out / _ABOUT).read_text(encoding="utf-8"))
        before = {key: about[key] for key in _ASKED}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out / _ABOUT} is damaged ({error!r}); choose another --out") from error
    for key, value in asked.items():
        if before[key] != value:
            raise ValueError(
                f"{out} holds a vocabulary with {key} {before[key]!r}, asked for is {value!r};"
                " choose another --out"
            )
    return _hash((out / _FILE).read_text(encoding="utf-8"))


def _write(out: pathlib.Path, contents: Mapping[str, str]) -> None:
    """The folder with these files, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        for name, text in contents.items():
            (temporary / name).write_text(text, encoding="utf-8")
        os.replace(temporary, out)  # refused by the system if somebody has filled it meanwhile
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
