"""`model=dict(of=RUN, image_size=384)`: the model and tokenizer of a run, but for the keys given.

RUN is a workdir, or a folder of checkpoints in it. Its `config.json` may be a stranger's, so a
plugin that it names is refused unless the user has named it, too (`config.saved`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from unified_fm.checkpoint import assets
from unified_fm.config import saved
from unified_fm.config.settings import Settings


def filled(
    given: Mapping[str, Any], modules: Sequence[str], place: str = "config"
) -> Mapping[str, Any]:
    """The config with `model.of` replaced by what it stands for.

    The run's tokenizer counts where the config has the default one.

    Args:
        given: of a config file, plain dicts.
        modules: whose plugins the run may name, beside those of `given`.
        place: what messages call it.

    Raises:
        ValueError: no such run, one that names no model, or that has another than `model.name`.
        plugins.Unnamed: the run names a plugin of a module that the user has not named.
    """
    model = given.get("model")
    if not isinstance(model, Mapping) or "of" not in model:
        return given
    place = f"{place}.model.of"
    workdir, there = _read(model["of"], [*modules, *saved.modules_of(given)], place)
    own = {key: value for key, value in model.items() if key != "of"}
    theirs = there.get("model")
    if not isinstance(theirs, Mapping) or not isinstance(theirs.get("name"), str):
        raise ValueError(f"{place}: config.json in {workdir} names no model: {theirs!r}")
    if own.get("name", theirs["name"]) != theirs["name"]:
        raise ValueError(
            f"{place}: the model in {workdir} is {theirs['name']!r}, and model.name is "
            f"{own['name']!r}: leave the name out, c.model = dict(of=..., ...)"
        )
    default = Settings.tokenizer
    tokenizer = given.get("tokenizer", default)
    if tokenizer == default and there.get("tokenizer", default) != default:
        tokenizer = str(assets.kept_tokenizer(workdir) or there["tokenizer"])
    return {**given, "model": _merged(theirs, own), "tokenizer": tokenizer}


def _read(path: Any, modules: Sequence[str], place: str) -> tuple[epath.Path, dict[str, Any]]:
    """The workdir and its saved config."""
    if not isinstance(path, str):
        raise ValueError(f"{place} is the workdir of a run, found {path!r}")
    folder = epath.Path(path)
    for workdir in (folder, *list(folder.parents)[:2]):  # RUN/checkpoints/8000
        try:
            return workdir, saved.read(workdir, modules)
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise ValueError(f"{place} is the workdir of a run, but {path} has no config.json")


def _merged(under: Any, over: Any) -> Any:
    """A dict with the values of `over` in place of those of `under`, at every depth."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}
