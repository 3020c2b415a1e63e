"""`model=dict(of=RUN, image_size=384)`: the model and tokenizer of a run, but for the keys given.

RUN is a workdir, a folder of checkpoints in it, or FAMILY:PATH, weights of another library whose
`config.json` tells their model. Its `config.json` may be a stranger's, so a plugin that it names is
refused unless the user has named it, too (`config.saved`).

`of="init"` is what `init` names, so that `--config.init=RUN` is all that a fine-tuning is told. A
config may be written before there is such a run:

    c.init = dict(path=None, fresh=["nlvr2_head/.*"], leave=[".*"])
    c.model = dict(of="init", otherwise=dict(name="xfm"), image_size=384)

Nothing starts from new parameters by oversight: a config with such an `init` is refused until a
path is given, or `--config.init=scratch`, with which `otherwise` is the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from unified_fm.checkpoint import assets, start
from unified_fm.config import saved
from unified_fm.config.settings import Settings

_INIT, _OWN = "init", ("of", "otherwise")
SCRATCH = "scratch"  # as a path of `init`: new parameters, on purpose


def filled(
    given: Mapping[str, Any], modules: Sequence[str], place: str = "config"
) -> Mapping[str, Any]:
    """The config with `model.of` replaced by what it stands for.

    The run's tokenizer counts where the config has the default one, or `of` is "init".

    Args:
        given: of a config file, plain dicts.
        modules: whose plugins the run may name, beside those of `given`.
        place: what messages call it.

    Raises:
        ValueError: no such run, one that names no model, or that has another than `model.name`;
            or a start that nobody has chosen.
        plugins.Unnamed: the run names a plugin of a module that the user has not named.
    """
    given = _started(given, place)
    model = given.get("model")
    if not isinstance(model, Mapping) or "of" not in model:
        return given
    place = f"{place}.model.of"
    own = {key: value for key, value in model.items() if key not in _OWN}
    of_init = model["of"] == _INIT
    path = start.source_of(given.get("init")) if of_init else model["of"]
    if path is None:
        return {**given, "model": _merged(model.get("otherwise", {"name": "xfm"}), own)}
    theirs, tokenizer = _found(path, [*modules, *saved.modules_of(given)], place)
    if not isinstance(theirs, Mapping) or not isinstance(theirs.get("name"), str):
        raise ValueError(f"{place}: config.json in {path} names no model: {theirs!r}")
    if own.get("name", theirs["name"]) != theirs["name"]:
        raise ValueError(
            f"{place}: the model in {path} is {theirs['name']!r}, and model.name is "
            f"{own['name']!r}: leave the name out, c.model = dict(of=..., ...)"
        )
    default = Settings.tokenizer
    chosen = given.get("tokenizer", default)
    if tokenizer and (of_init or chosen == default):
        chosen = tokenizer
    return {**given, "model": _merged(theirs, own), "tokenizer": chosen}


def changed(given: Mapping[str, Any], changes: Sequence[tuple[str, str]]) -> Mapping[str, Any]:
    """The config, as far as changes of the command line decide which model it is of.

    Which run that is decides which options the model has, so it is looked up before they are.
    """
    for path, text in changes:
        if path == "model.of":
            given = {**given, "model": {**given.get("model", {}), "of": text}}
        elif taken(given, (path, text)):
            given = {**given, "init": {**given["init"], "path": None if text == "None" else text}}
    return given


def taken(given: Mapping[str, Any], change: tuple[str, str]) -> bool:
    """Whether `changed` is all that a change (dotted path, text) does."""
    path, text = change
    is_path = path in ("init", "init.path") and not text.startswith("{")
    return path == "model.of" or (is_path and _takes_a_path(given))


def _takes_a_path(given: Mapping[str, Any]) -> bool:
    """Whether `init` is a dict whose path is still to come: a text in its place is that path."""
    return isinstance(given.get("init"), Mapping) and "path" in given["init"]


def _started(given: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """The config without a start, if that is from new parameters.

    Raises:
        ValueError: it leaves open what it starts from.
    """
    init = given.get("init")
    path = init.get("path") if isinstance(init, Mapping) else init
    if path == SCRATCH:
        return {**given, "init": None}
    named: Mapping[str, Any] = init if isinstance(init, Mapping) else {}
    if "path" in named and not any(named.get(key) for key in ("path", *start.PARTS)):
        raise ValueError(
            f"{place}.init says not what to start from: --config.init=RUN, a checkpoint or"
            f" FAMILY:PATH of another library; --config.init={SCRATCH} trains new parameters"
        )
    return given


def _found(path: Any, modules: Sequence[str], place: str) -> tuple[Any, str | None]:
    """The model of a source, and its tokenizer if that is another than the default one."""
    if isinstance(path, str) and start.is_foreign(path):
        try:
            model, tokenizer = start.model_of(path), start.tokenizer_of(path)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if model is None:
            raise ValueError(f"{place}: {path} has no config.json, which would tell its model")
        return model, tokenizer
    workdir, there = _read(path, modules, place)
    default = Settings.tokenizer
    if there.get("tokenizer", default) == default:
        return there.get("model"), None
    return there.get("model"), str(assets.kept_tokenizer(workdir) or there["tokenizer"])


def _read(path: Any, modules: Sequence[str], place: str) -> tuple[epath.Path, dict[str, Any]]:
    """The workdir and its saved config."""
    if not isinstance(path, str):
        raise ValueError(f"{place} is the workdir of a run, found {path!r}")
    workdir = saved.workdir_of(path)
    if workdir is None:
        raise ValueError(f"{place} is the workdir of a run, but {path} has no config.json")
    return workdir, saved.read(workdir, modules)


def _merged(under: Any, over: Any) -> Any:
    """A dict with the values of `over` in place of those of `under`, at every depth."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}
