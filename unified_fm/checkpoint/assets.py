"""What a run needs beside its parameters, kept in its workdir: so a moved run loads and resumes.

    WORKDIR/assets/tokenizer-1a2b3c4d5e6f.json   the tokenizer, of whatever files it was loaded from
    WORKDIR/assets/assets.json                   {"tokenizer": that name, "preprocessing":
        {stream: options}, "class_names": {stream: names by label}}

A tokenizer is known by its content and not by its path: the same one may lie elsewhere when the run
goes on, and another one at the same path is found out.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from etils import epath

from unified_fm import files
from unified_fm.config.changes import data_changes
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers

_ABOUT = "assets.json"
_log = logging.getLogger(__name__)


def keep(workdir: Any, tokenizer: tokenizers.Tokenizer, loaders: Mapping[str, Any]) -> None:
    """Writes what the run uses now; to be called by one process, before its first save.

    `loaders` is {stream: its `data.loader.Loader`}; the workdir may be in a bucket.

    Raises:
        OSError: it could not be written.
    """
    folder = epath.Path(workdir) / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"tokenizer-{_hash(tokenizer)[:12]}.json"
    if not (folder / name).exists():
        files.write_whole(folder / name, tokenizer.text(), durable=True)
    labels = {stream: list(loader.source.class_names) for stream, loader in loaders.items()}
    about = {
        "tokenizer": name,
        "preprocessing": {stream: _options(loader) for stream, loader in loaders.items()},
        "class_names": {stream: names for stream, names in labels.items() if names},
    }
    text = json.dumps(about, indent=1, default=str)
    if not (folder / _ABOUT).exists() or (folder / _ABOUT).read_text() != text:
        files.write_whole(folder / _ABOUT, text, durable=True)


def located(settings: Settings, workdir: Any) -> Settings:
    """The settings, with the copy in the workdir where the tokenizer's own files are gone.

    Raises:
        ValueError: what is there is no tokenizer, or `assets.json` is damaged.
    """
    try:
        tokenizers.load(settings.tokenizer)
    except FileNotFoundError:
        copy = kept_tokenizer(workdir)
        if copy is not None:
            _log.info("no tokenizer at %s any more: the run has kept it", settings.tokenizer)
            return settings.replace(tokenizer=str(copy))
    return settings


def changes(workdir: Any, before: Mapping[str, Any], now: Settings) -> list[str]:
    """As `data_changes` of a run's saved config, tokenizers by content if it has kept its own."""
    copy = kept_tokenizer(workdir)
    if copy is None:
        return data_changes(before, now.plain())
    name = located(now, workdir).tokenizer
    # Both are hashed here and now: versions of the library may write one tokenizer in two ways.
    kept, wanted = (f"sha256 {_hash(tokenizers.load(path))}" for path in (str(copy), name))
    return data_changes({**before, "tokenizer": kept}, {**now.plain(), "tokenizer": wanted})


def kept_tokenizer(workdir: Any) -> epath.Path | None:
    """The file of the tokenizer that the run has kept; None if it has not.

    Raises:
        ValueError: `assets.json` is damaged.
    """
    file = epath.Path(workdir) / "assets" / _ABOUT
    if not file.exists():
        return None
    try:
        name = json.loads(file.read_text())["tokenizer"]
        if epath.Path(name).name != name:
            raise ValueError(f"{name!r} is no name of a file")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}; it may be deleted") from error
    return file.with_name(name)


def _hash(tokenizer: tokenizers.Tokenizer) -> str:
    return hashlib.sha256(tokenizer.text().encode("utf-8")).hexdigest()


def _options(loader: Any) -> dict[str, Any]:
    """The pipeline of a stream and all its options, those by default too."""
    pipeline = loader.pipeline
    fields = [field.name for field in dataclasses.fields(pipeline) if field.init]
    options = {name: getattr(pipeline, name) for name in fields if name != "tokenizer"}
    return {"pipeline": loader.entry.pipeline, **options}
