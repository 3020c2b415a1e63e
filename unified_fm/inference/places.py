"""What lies at a path: a run, a checkpoint of one, imported weights, a Hugging Face folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from unified_fm import buckets, choices
from unified_fm.config import saved

RUN, WEIGHTS, FOREIGN = "run", "weights", "hf"
_LOOKED_FOR = (
    "a workdir (config.json, checkpoints/), RUN/checkpoints/STEP, what `unified-fm convert import` "
    "wrote, or a folder with config.json and model.safetensors"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Something that can be loaded.

    Attributes:
        kind: RUN, WEIGHTS (of ours, without a run) or FOREIGN.
        folder: where its config.json stands.
        config: what that holds; of a run checked by `config.saved`.
        step: of the checkpoint that the path names; None: it names none.
    """

    kind: str
    folder: epath.Path
    config: Mapping[str, Any]
    step: int | None = None


def find(path: Any, plugins: Sequence[str] = ()) -> Place:
    """Looks at a path.

    Args:
        path: local, or gs://... for runs and checkpoints.
        plugins: modules whose plugins a run's config may name.

    Raises:
        FileNotFoundError: there is nothing, with the nearest names that exist.
        ValueError: nothing that can be loaded, with what was looked for; a damaged config.json.
        ModuleNotFoundError: the package for buckets is missing, with the command.
        plugins.Unnamed: the config names a plugin of another module.
    """
    buckets.check(path)
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(_nothing(path))
    step = int(path.name) if path.name.isdigit() and path.parent.name == "checkpoints" else None
    folder = saved.workdir_of(path)
    if folder is not None:
        kind, config = _kind(folder)
        if kind == RUN:
            return Place(RUN, folder, saved.read(folder, plugins), step)
        if folder == path:
            return Place(kind, folder, config)
    raise ValueError(f"{path} is nothing that can be loaded: looked for {_LOOKED_FOR}{_runs(path)}")


def _kind(folder: epath.Path) -> tuple[str, dict[str, Any]]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    found = config if isinstance(config, dict) else {}
    if isinstance(found.get("model_type"), str):
        return FOREIGN, found
    if "source" in found and isinstance(found.get("model"), Mapping):
        return WEIGHTS, found
    if isinstance(found.get("model"), Mapping) and isinstance(found.get("streams"), Mapping):
        return RUN, found
    raise ValueError(
        f"{file} is the config of neither a run (model, streams) nor of Hugging Face (model_type): "
        f"it has {', '.join(map(str, list(found)[:10])) or 'nothing'}"
    )


def _nothing(path: epath.Path) -> str:
    """The message about a path that does not exist."""
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    first = path.parts[len(parent.parts)]
    folders = sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    runs = [p.name for p in folders if (p / "config.json").exists()]
    there = [*runs, *(p.name for p in folders if p.name not in runs)]
    near = choices.nearest(first, runs) or choices.nearest(first, there)
    hint = f"; did you mean {parent / near}?" if near else "."
    shown = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
    return (
        f"there is no {path}{hint} Looked for {_LOOKED_FOR}. Folders in {parent}: {shown or 'none'}"
    )


def _runs(path: epath.Path) -> str:
    """The folders below that look like runs, for the message."""
    inside = path.iterdir() if path.is_dir() else ()
    runs = sorted(p.name for p in inside if (p / "config.json").exists())[:10]
    return f"; below it there are {', '.join(runs)}" if runs else ""
