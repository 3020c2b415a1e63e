"""What a run needs beside its parameters, kept in its workdir: so a moved run loads and resumes.

    WORKDIR/assets/tokenizer-1a2b3c4d5e6f.json   the tokenizer, of whatever files it was loaded from
    WORKDIR/assets/assets.json                   {"tokenizer": that name, "preprocessing":
        {stream: options}, "class_names": {stream: names by label}, "files": {stream: {option of
        its pipeline: name of the copy}}, "commit": of the library, where it is known}

A tokenizer is known by its content and not by its path, and so is a file that an option of a
pipeline names (VQA's answer list): the same one may lie elsewhere when the run goes on, and another
one at the same path is found out.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from unified_fm import files
from unified_fm.config.changes import data_changes
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.pipelines import base as pipelines
from unified_fm.runtime import revision

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
    about = {
        "tokenizer": name,
        "preprocessing": {stream: _options(loader) for stream, loader in loaders.items()},
        "class_names": class_names(loaders),
        "files": {
            stream: {option: _kept(folder, path) for option, path in named.items()}
            for stream, named in ((s, _files(loader)) for s, loader in loaders.items())
            if named
        },
        "commit": revision.commit(),
    }
    text = json.dumps(about, indent=1, default=str)
    if not (folder / _ABOUT).exists() or (folder / _ABOUT).read_text() != text:
        files.write_whole(folder / _ABOUT, text, durable=True)


def class_names(loaders: Mapping[str, Any]) -> dict[str, list[str]]:
    """{stream: names of its classes by number}: of its pipeline, or else of its source.

    Raises:
        ValueError: the pipeline's file of names is not what its options say.
    """
    names = {
        stream: list(loader.pipeline.class_names or loader.source.class_names)
        for stream, loader in loaders.items()
    }
    return {stream: found for stream, found in names.items() if found}


def kept_class_names(workdir: Any) -> dict[str, list[str]]:
    """What `class_names` was when the run began; {} of a run that has kept nothing.

    Raises:
        ValueError: `assets.json` is damaged.
    """
    found = _about(workdir).get("class_names", {})
    if not isinstance(found, dict):
        raise _damaged(workdir, f"class_names are {found!r}")
    return found


def kept_preprocessing(workdir: Any) -> dict[str, dict[str, Any]]:
    """{stream: name and options of its pipeline, those by default too}; {}: nothing was kept.

    Raises:
        ValueError: `assets.json` is damaged.
    """
    found = _about(workdir).get("preprocessing", {})
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise _damaged(workdir, "preprocessing is no object of objects")
    return found


def kept_commit(workdir: Any) -> str:
    """The library's commit when the run began or went on last; "" where it is not known.

    Raises:
        ValueError: `assets.json` is damaged.
    """
    found = _about(workdir).get("commit", "")
    if not isinstance(found, str):
        raise _damaged(workdir, f"commit is {found!r}")
    return found


def located(settings: Settings, workdir: Any) -> Settings:
    """The settings, with the copies in the workdir where the files themselves are gone.

    Raises:
        ValueError: what is there is no tokenizer, or `assets.json` is damaged.
    """
    try:
        tokenizers.load(settings.tokenizer)
    except FileNotFoundError:
        copy = kept_tokenizer(workdir)
        if copy is not None:
            _log.info("no tokenizer at %s any more: the run has kept it", settings.tokenizer)
            settings = settings.replace(tokenizer=str(copy))
    streams = dict(settings.streams)
    for stream, option, path in _named_files(settings.plain()):
        copy = _kept_file(workdir, stream, option)
        if copy is not None and not epath.Path(path).exists():
            _log.info("no file %s any more: the run has kept it", path)
            options = {**streams[stream].options, option: str(copy)}
            streams[stream] = streams[stream].replace(options=options)
    return settings.replace(streams=streams)


def changes(workdir: Any, before: Mapping[str, Any], now: Settings) -> list[str]:
    """As `data_changes` of a run's saved config, files by content if it has kept its own."""
    copy = kept_tokenizer(workdir)
    if copy is None:
        return data_changes(before, now.plain())
    here = located(now, workdir)
    # Both are hashed here and now: versions of the library may write one tokenizer in two ways.
    kept, wanted = (
        f"sha256 {_hash(tokenizers.load(path))}" for path in (str(copy), here.tokenizer)
    )
    before, after = ({**before, "tokenizer": kept}, {**here.plain(), "tokenizer": wanted})
    for stream, option, path in _named_files(after):
        copy = _kept_file(workdir, stream, option)
        if copy is None or option not in before.get("streams", {}).get(stream, {}):
            continue
        before = _with_file(before, stream, option, f"sha256 {_hash_of(copy)}")
        after = _with_file(after, stream, option, f"sha256 {_hash_of(epath.Path(path))}")
    return data_changes(before, after)


def by_content(settings: Settings) -> dict[str, Any]:
    """The plain settings, with what the tokenizer and pipelines' files hold in place of paths.

    Raises:
        ValueError, OSError: one of them is not there, or is no tokenizer.
    """
    tokenizer = _hash(tokenizers.load(settings.tokenizer))
    found = settings.plain() | {"tokenizer": f"sha256 {tokenizer}"}
    for stream, option, path in list(_named_files(found)):
        found = _with_file(found, stream, option, f"sha256 {_hash_of(epath.Path(path))}")
    return found


def kept_tokenizer(workdir: Any) -> epath.Path | None:
    """The file of the tokenizer that the run has kept; None if it has not.

    Raises:
        ValueError: `assets.json` is damaged.
    """
    about = _about(workdir)
    return _copy(workdir, about["tokenizer"]) if "tokenizer" in about else None


def _kept_file(workdir: Any, stream: str, option: str) -> epath.Path | None:
    """The copy of a file that an option of a stream's pipeline names; None: there is none."""
    found = _about(workdir).get("files", {})
    name = found.get(stream, {}).get(option) if isinstance(found, dict) else None
    return None if name is None else _copy(workdir, name)


def _about(workdir: Any) -> dict[str, Any]:
    """The content of `assets.json`; {} where there is none."""
    file = epath.Path(workdir) / "assets" / _ABOUT
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise _damaged(workdir, error) from error
    if not isinstance(found, dict) or "tokenizer" not in found:
        raise _damaged(workdir, "it names no tokenizer")
    return found


def _copy(workdir: Any, name: Any) -> epath.Path:
    if not isinstance(name, str) or epath.Path(name).name != name:
        raise _damaged(workdir, f"{name!r} is no name of a file")
    return epath.Path(workdir) / "assets" / name


def _damaged(workdir: Any, why: Any) -> ValueError:
    file = epath.Path(workdir) / "assets" / _ABOUT
    return ValueError(f"{file} is damaged: {why}; it may be deleted")


def _files(loader: Any) -> dict[str, str]:
    """{option: path} of the files that a stream's pipeline needs."""
    named = {option: getattr(loader.pipeline, option) for option in loader.pipeline.files}
    return {option: str(path) for option, path in named.items() if path}


def _kept(folder: epath.Path, path: str) -> str:
    """Copies a file into the folder, and returns the name that says its content."""
    content = epath.Path(path).read_bytes()
    name = f"{epath.Path(path).stem}-{hashlib.sha256(content).hexdigest()[:12]}"
    name += epath.Path(path).suffix
    if not (folder / name).exists():
        files.write_whole(folder / name, content, durable=True)
    return name


def _named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields (stream, option, path) of the files that options of pipelines name in a config."""
    for stream, entry in config["streams"].items():
        for option in pipelines.load(entry["pipeline"]).files:
            if entry.get(option):
                yield stream, option, str(entry[option])


def _with_file(config: Mapping[str, Any], stream: str, option: str, value: str) -> dict[str, Any]:
    streams = dict(config["streams"])
    streams[stream] = {**streams[stream], option: value}
    return {**config, "streams": streams}


def _hash_of(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(tokenizer: tokenizers.Tokenizer) -> str:
    return hashlib.sha256(tokenizer.text().encode("utf-8")).hexdigest()


def _options(loader: Any) -> dict[str, Any]:
    """The pipeline of a stream and all its options, those by default too."""
    pipeline = loader.pipeline
    fields = [field.name for field in dataclasses.fields(pipeline) if field.init]
    options = {name: getattr(pipeline, name) for name in fields if name != "tokenizer"}
    return {"pipeline": loader.entry.pipeline, **options}
