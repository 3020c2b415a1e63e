"""Plugin lookup: a name in a config becomes the one public class or function of a module.

`build("objectives", "itm", **kw)` imports `unified_fm.objectives.itm` and makes its `Objective`. A
dotted name (`my_project.loss`) imports as it is, so a user adds a file outside the library. There
are no tables and no decorators: the folders are the list of choices. What is special about one task
may stand together in `tasks/`: there `build("objectives", "nlvr2")` looks next.

To load a plugin is to run its module, so its name must come from the user: from the command line,
or from the config file that it names. A name that a *file* brings along (a run's saved
`config.json`) goes through `refuse_unnamed` before anything is looked up. That check stands where
such a file is read (`config.saved`), not in `load`: what has passed it is as good as what the user
wrote, nothing needs to be handed down to every part that loads a plugin, and no state of the module
decides what may run.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm import choices

_PUBLIC = {
    "models": "Model",
    "objectives": "Objective",
    "data.pipelines": "Pipeline",
    "data.sources": "Source",
    "evaluators": "Evaluator",
    "optim.merge": "merge",
}
_OF_TASKS = ("data.pipelines", "objectives", "evaluators")  # what a module of tasks/ may define
# Kinds whose class has all that the class of the same name in their `base` promises.
_DERIVED = ("models", "objectives", "evaluators")
_CALLED = ("__call__", "__len__", "__getitem__")  # what a contract may ask for beside plain names

# What the library itself gives a plugin of a kind, so no config does.
GIVEN: Mapping[str, Sequence[str]] = {
    "models": ("parent",),
    "optim.merge": ("groups",),
    "data.pipelines": ("tokenizer",),
    "objectives": ("tokenizer", "candidates"),
    "evaluators": ("tokenizer", "streams", "passes", "place"),
}


@dataclasses.dataclass(frozen=True)
class OptionsOf:
    """Marks a dict in a plugin's signature: the options of the plugin that the option `by` names.

    `options: Annotated[Mapping[str, Any], OptionsOf("data.pipelines", by="pipeline")]`. A class or
    function as the mark says that the dict has what *it* takes.
    """

    kind: str
    by: str


class Unnamed(ValueError):
    """A file names a plugin in a module that the user has not named."""


def refuse_unnamed(name: str, where: str, modules: Sequence[str]) -> None:
    """Refuses a plugin that a file names, unless it is the library's or the user has named it.

    Nothing is imported or looked up: even to find `a.b`, Python would run `a`.

    Args:
        name: of the plugin, as a config has it.
        where: the file and the place in it, for the message.
        modules: dotted modules that the user names; each stands for itself and all below it.

    Raises:
        Unnamed: with the module, and the flag that names it.
    """
    if "." not in name:
        return
    library = [f"unified_fm.{kind}" for kind in (*_PUBLIC, "tasks")]
    if any(name.startswith(f"{module}.") for module in library):
        return
    if not any(name == module or name.startswith(f"{module}.") for module in modules):
        raise Unnamed(
            f"{where} names the plugin {name!r}: loading it would run that module, and a file "
            f"alone may not ask for that. If you trust it: --plugins={name.split('.')[0]}"
        )


def load(kind: str, name: str) -> Callable[..., Any]:
    """Imports the plugin `name` of `kind` and returns its public class or function.

    Args:
        kind: "models", "objectives", "data.pipelines", "data.sources", "evaluators" or
            "optim.merge".
        name: a module of that folder ("itm") or of `tasks/`, or a dotted module path of the user's,
            which may define plugins of several kinds.

    Raises:
        ValueError: unknown kind or name; the message lists the choices and the nearest one. Or the
            module has no public object of the kind's name.
        TypeError: a class lacks a part of its kind's contract.
    """
    if kind not in _PUBLIC:
        raise ValueError(f"unknown kind of plugin {kind!r}; {choices.possible(kind, _PUBLIC)}")
    public = _PUBLIC[kind]
    path = _path(kind, name)
    if not _exists(path):
        if "." in name:
            raise ValueError(
                f"no module {name!r} for {kind}: is its folder on the Python path (PYTHONPATH)?"
            )
        raise ValueError(f"unknown name {name!r} in {kind}; {choices.possible(name, names(kind))}")
    module = importlib.import_module(path)
    if not hasattr(module, public):
        raise ValueError(f"{path} has no {public!r}: a plugin of {kind} must define it")
    found = getattr(module, public)
    if kind in _DERIVED:
        contract = getattr(importlib.import_module(f"unified_fm.{kind}.base"), public)
        check_contract(found, contract, f"{path}.{public}")
    return found


def check_contract(found: Any, contract: type, what: str) -> None:
    """Refuses a plugin that lacks a part of its contract, the base class of its kind.

    Raises:
        TypeError: with what is missing, and the class to derive from.
    """
    known = set(dir(found))
    missing = [name for name in members(contract) if name not in known]
    if missing:
        raise TypeError(
            f"{what} lacks {', '.join(missing)}: derive it from {contract.__module__}."
            f"{contract.__name__}, which says what each is for and has a default of all but a few"
        )


def members(contract: type) -> list[str]:
    """The names that a contract asks for."""
    return [name for name in vars(contract) if not name.startswith("_") or name in _CALLED]


def build(kind: str, name: str, /, **config: Any) -> Any:
    """Loads the plugin and calls it with `config`.

    Raises:
        TypeError: a keyword that the plugin does not take; the message names the nearest one.
    """
    plugin = load(kind, name)
    check_keywords(plugin, config, what=f"{kind}.{name}")
    return plugin(**config)


def names(kind: str) -> list[str]:
    """Lists the names in the library's folder of `kind` and in `tasks/`, without importing them."""
    return list(_names(kind))


@functools.cache
def _names(kind: str) -> tuple[str, ...]:
    """The modules that define the public object; the others there are parts of them."""
    defines = re.compile(rf"^(class|def) {_PUBLIC[kind]}\b", re.MULTILINE)
    defining = set()
    for package in (kind, "tasks") if kind in _OF_TASKS else (kind,):
        folders = importlib.import_module(f"unified_fm.{package}").__path__
        for folder in folders:
            found = (module.name for module in pkgutil.iter_modules([folder]))
            defining |= {n for n in found if _has(os.path.join(folder, f"{n}.py"), defines)}
    return tuple(sorted(defining - {"base"}))


def _path(kind: str, name: str) -> str:
    """The module of a plugin: the user's, of the kind's folder, or else of a task."""
    if "." in name:
        return name
    own, task = f"unified_fm.{kind}.{name}", f"unified_fm.tasks.{name}"
    return task if kind in _OF_TASKS and not _exists(own) and _exists(task) else own


def _has(file: str, pattern: re.Pattern) -> bool:
    with contextlib.suppress(OSError), open(file, encoding="utf-8") as text:
        return pattern.search(text.read()) is not None
    return False


def check_keywords(function: Callable[..., Any], config: Iterable[str], *, what: str) -> None:
    """Refuses keywords that `function` does not take.

    Raises:
        TypeError: with the nearest keyword and all possible ones.
    """
    taken = parameters(function)
    known = [name for name in taken.known if name not in ("self", "parent")]
    for key in config:
        if not taken.others and key not in known:
            raise TypeError(f"{what} takes no option {key!r}; {choices.possible(key, known)}")


class Parameter(NamedTuple):
    """One option of a plugin.

    Attributes:
        kind: its annotation, or the type of its default; `Any` where neither tells.
        default: `REQUIRED` where there is none.
    """

    kind: Any
    default: Any


class Parameters(NamedTuple):
    """What a plugin takes: options by name, and whether any other is taken as well."""

    known: Mapping[str, Parameter]
    others: bool = False


REQUIRED: Any = inspect.Parameter.empty


def parameters(function: Callable[..., Any]) -> Parameters:
    """Reads the signature of a plugin, or of what it gives options on to."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # an annotation that stands in quotes and names what is not there
        signature = inspect.signature(function)
    known, others = {}, False
    for name, parameter in signature.parameters.items():
        kind, default = parameter.annotation, parameter.default
        if kind is parameter.empty:
            kind = Any if default in (parameter.empty, None) else type(default)
        if parameter.kind is parameter.VAR_KEYWORD:
            others = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            known[name] = Parameter(kind, default)
    return Parameters(known, others)


def _exists(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
