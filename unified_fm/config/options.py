"""Which options exist where in a config, and of which type: the plugins' signatures decide.

A config is a tree. An `Option` describes one place of it; what stands below depends on the value
there: a stream has the options of the pipeline that it names, an evaluator those of its plugin. So
nothing is listed twice, and a user's own plugin is described as well as the library's.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm import plugins
from unified_fm.checkpoint import start
from unified_fm.config import values
from unified_fm.data import batching

_RULES = str | Sequence[Any] | None
# Types of the settings whose default does not tell.
_KINDS = {
    "plugins": Sequence[str],
    "prepare": str | None,
    "tokenizer": str,
    "ema": float | None,
    "optimizer.clip": float | None,
    "optimizer.project": Sequence[Any] | None,
    "rules.lr_scale": _RULES,
    "rules.weight_decay": _RULES,
    "rules.frozen": _RULES,
    "rules.sharding": _RULES,
    "checkpoint.best": str | None,
    "telemetry.shared": str | None,
}
# What the library itself gives a plugin of a kind, so no config does.
_GIVEN = {
    "models": ("parent",),
    "optim.merge": ("groups",),
    "data.pipelines": ("tokenizer",),
    "evaluators": ("tokenizer",),
}


class Keys(NamedTuple):
    """What may stand in a dict: options by name, and what any other name would be (None: none)."""

    known: Mapping[str, "Option"]
    others: "Option | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One place in a config.

    Attributes:
        kind: the type of its value, an annotation.
        keys: what may stand in it if it is a dict, given that dict; None: it is none of ours.
        removable: leaving it out is possible.
        names: it is a dict of names that the user chooses. An entry can be added that is named
            like a plugin of the kind `plugin`, or that begins with one of the keys `begins`.
        begins: see `names`.
        plugin: it is the name of a plugin of this kind; or see `names`.
        by: the key whose value, the name of a plugin, decides which others there are; with the
            `Option` that it is.
        bare: the key that a number in place of the dict means.
        run: it is the whole config of another run, or the config file that gives it.
        called: what messages call its keys.
    """

    kind: Any = Any
    keys: Callable[[Mapping[str, Any]], Keys] | None = None
    removable: bool = False
    names: Callable[[str], "Option"] | None = None
    begins: Sequence[str] = ()
    plugin: str | None = None
    by: "tuple[str, Option] | None" = None
    bare: str | None = None
    run: bool = False
    called: str = "key"

    def inside(self, value: Mapping[str, Any]) -> Keys:
        """What may stand in the dict `value` at this place."""
        if self.names is not None:
            return Keys({key: self.names(key) for key in value})
        if self.keys is not None:
            return self.keys(value)
        return Keys({}, Option(kind=values.item(self.kind), removable=True))


def tree(defaults: Mapping[str, Any]) -> Option:
    """The whole config of a run.

    Args:
        defaults: `settings.defaults()`.
    """
    return _section(defaults, "", defaults)


def check(option: Option, value: Any, place: str) -> None:
    """Refuses keys that do not exist and values of another type, in all that stands at a place.

    Raises:
        ValueError, TypeError: what was wrong, and what is possible.
    """
    values.check(value, option.kind, place)
    if not isinstance(value, Mapping):
        return
    known, others = option.inside(value)
    for key, inner in value.items():
        found = known.get(key, others)
        if found is None:
            raise unknown(option, place, key, known)
        check(found, inner, f"{place}.{key}")


def unknown(option: Option, place: str, key: str, known: Mapping[str, Option]) -> ValueError:
    """The error about a key that does not exist: the nearest one, and all that do."""
    possible = {*known, *(plugins.choices(option.plugin) if option.names and option.plugin else ())}
    text = f"{place} has no {option.called} {key!r}; {plugins.possible(key, possible)}"
    if option.begins:
        begins = " or ".join(f"--{place}.NEW.{word}=..." for word in option.begins)
        text += f" A new one begins with {begins}"
    return ValueError(text)


def _section(default: Mapping[str, Any], place: str, root: Mapping[str, Any]) -> Option:
    def keys(value: Mapping[str, Any]) -> Keys:
        return Keys({key: _setting(default[key], _join(place, key), root) for key in default})

    return Option(kind=Mapping, keys=keys)


def _setting(default: Any, place: str, root: Mapping[str, Any]) -> Option:
    special = {
        "model": lambda: _plugin("models"),
        "merge": lambda: _plugin("optim.merge"),
        "streams": _streams,
        "evaluate.evaluators": _evaluators,
        "teachers": lambda: _teachers(root),
        "init": _init,
        "gradient_groups": lambda: Option(kind=Mapping[str, Sequence[str]] | None),
    }
    if place in special:
        return special[place]()
    if place in _KINDS:
        return Option(kind=_KINDS[place])
    if isinstance(default, Mapping):
        return _section(default, place, root)
    if default is None:
        return Option()
    return Option(kind=Sequence[Any] if isinstance(default, list | tuple) else type(default))


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _plugin(
    kind: str,
    name: str | None = None,
    /,
    *,
    by: str = "name",
    own: Callable[[Any], Mapping[str, Option]] = lambda plugin: {},
    **about: Any,
) -> Option:
    """A dict that names a plugin and gives its options.

    Args:
        kind: of plugin.
        name: of the plugin if the dict has none.
        by: the key of the name.
        own: options that the plugin itself does not see.
        about: further attributes of the `Option`.
    """

    def keys(value: Mapping[str, Any]) -> Keys:
        chosen = value.get(by, name)
        if not isinstance(chosen, str):
            possible = plugins.possible(str(chosen), plugins.choices(kind))
            found = f"found {chosen!r}" if by in value else f"there is no {by!r} in it"
            raise ValueError(f"a {kind} plugin is named by {by!r}; {found}; {possible}")
        plugin = plugins.load(kind, chosen)
        known, others = _parameters(plugin, _GIVEN.get(kind, ()), value)
        return Keys({**known, **own(plugin), by: named}, others)

    named = Option(kind=str, plugin=kind, removable=name is not None)
    about = {"kind": Mapping, "called": "option", **about}
    return Option(keys=keys, by=(by, named), **about)


def _parameters(
    function: Callable[..., Any], given: Sequence[str], value: Mapping[str, Any]
) -> Keys:
    """What a function or class takes by its signature but `given`, in a dict like `value`."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # an annotation that stands in quotes and names what is not there
        signature = inspect.signature(function)
    known, others = {}, None
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = Option(removable=True)
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in given:
            known[name] = _parameter(parameter, signature.parameters, value)
    return Keys(known, others)


def _parameter(parameter, parameters, value) -> Option:
    kind, default = parameter.annotation, parameter.default
    about = {"removable": default is not parameter.empty}
    if kind is parameter.empty and default is not parameter.empty and default is not None:
        kind = type(default)
    marks = typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ()
    for mark in marks:
        if isinstance(mark, plugins.LikeSetting):
            return dataclasses.replace(_setting({}, mark.name, {}), **about)
        given = ()
        if isinstance(mark, plugins.OptionsOf):
            given = _GIVEN.get(mark.kind, ())
            name = value.get(mark.by, getattr(parameters.get(mark.by), "default", None))
            mark = plugins.load(mark.kind, name)
        return Option(
            kind=kind, keys=functools.partial(_parameters, mark, given), called="option", **about
        )
    return Option(kind=kind, **about)


def _streams() -> Option:
    def own(pipeline: Any) -> dict[str, Option]:
        kinds = batching.own_options(pipeline)
        found = {key: Option(kind=kind, removable=True) for key, kind in kinds.items()}
        needed = {key: Option(kind=kinds[key]) for key in ("source", "batch_size")}
        return {**found, **needed, "objectives": _objectives()}

    def entry(key: str) -> Option:
        return _plugin("data.pipelines", by="pipeline", own=own, removable=True)

    return Option(kind=Mapping, names=entry, begins=("pipeline",))


def _objectives() -> Option:
    def entry(key: str) -> Option:
        return _plugin(
            "objectives",
            key,
            own=lambda plugin: {"weight": Option(kind=float, removable=True)},
            kind=float | Mapping,
            bare="weight",
            removable=True,
        )

    return Option(kind=Mapping, names=entry, begins=("name",), plugin="objectives")


def _evaluators() -> Option:
    def entry(key: str) -> Option:
        return _plugin("evaluators", key, removable=True)

    return Option(kind=Mapping, names=entry, begins=("name",), plugin="evaluators")


def _teachers(root: Mapping[str, Any]) -> Option:
    def entry(key: str) -> Option:
        known = {
            "model": _plugin("models", kind=Mapping | None),
            "path": Option(kind=str | None),
            "step": Option(kind=int | None),
            "init": _init(),
            "heads": Option(kind=int | Mapping | None),
            "cache": Option(kind=str | None),
            "streams": Option(kind=Sequence[str] | None),
            "config": Option(
                kind=str | Mapping | None, keys=lambda value: tree(root).inside(value), run=True
            ),
        }
        return Option(kind=Mapping, keys=lambda value: Keys(known), removable=True)

    return Option(kind=Mapping, names=entry, begins=("path", "init", "cache", "config"))


def _init() -> Option:
    known = {
        "path": Option(kind=str, removable=True),
        "step": Option(kind=int | None),
        "rename": Option(kind=Sequence[Any] | None),
        "copy": Option(kind=Sequence[Any] | None),
        "fresh": Option(kind=Sequence[str] | None),
        "allow": Option(kind=Sequence[str] | None),
        "heads": Option(kind=int | Mapping | None),
        **{part: Option(kind=str, removable=True) for part in start.PARTS},
    }
    return Option(kind=str | Mapping | None, keys=lambda value: Keys(known))
