"""Which options exist where in a config, and of which type: the plugins' signatures decide.

A config is a tree. An `Option` describes one place of it; what stands below depends on the value
there: a stream has the options of the pipeline that it names, an evaluator those of its plugin. So
nothing is listed twice, and a user's own plugin is described as well as the library's.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm import choices, plugins
from unified_fm.config import records, values
from unified_fm.config.settings import Init, Settings, Teacher
from unified_fm.config.weights import Weight
from unified_fm.data import batching


class Keys(NamedTuple):
    """What may stand in a dict: options by name, and what any other name would be (None: none)."""

    known: Mapping[str, "Option"]
    others: "Option | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One place in a config.

    Attributes:
        kind: the type of its value, an annotation.
        default: what counts if it is left out; `plugins.REQUIRED`: it cannot be, or is unknown.
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
    default: Any = plugins.REQUIRED
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


def tree() -> Option:
    """The whole config of a run."""
    return _section(Settings)


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
    possible = {*known, *(plugins.names(option.plugin) if option.names and option.plugin else ())}
    text = f"{place} has no {option.called} {key!r}; {choices.possible(key, possible)}"
    if option.begins:
        begins = " or ".join(f"--{place}.NEW.{word}=..." for word in option.begins)
        text += f" A new one begins with {begins}"
    return ValueError(text)


def _section(record: type[records.Record], place: str = "") -> Option:
    defaults, kinds = records.defaults(record), records.kinds(record)

    def keys(value: Mapping[str, Any]) -> Keys:
        return Keys(
            {
                name: _setting(kinds[name], default, place + name)
                for name, default in defaults.items()
            }
        )

    return Option(kind=Mapping, keys=keys)


def _setting(kind: Any, default: Any, place: str) -> Option:
    if place in _SPECIAL:
        return dataclasses.replace(_SPECIAL[place](), default=default)
    if isinstance(default, records.Record):
        return _section(type(default), f"{place}.")
    return Option(kind=kind, default=default)


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
            possible = choices.possible(str(chosen), plugins.names(kind))
            found = f"found {chosen!r}" if by in value else f"there is no {by!r} in it"
            raise ValueError(f"a {kind} plugin is named by {by!r}; {found}; {possible}")
        plugin = plugins.load(kind, chosen)
        known, others = _parameters(plugin, plugins.GIVEN.get(kind, ()), value)
        return Keys({**known, **own(plugin), by: named}, others)

    named = Option(kind=str, plugin=kind, removable=name is not None)
    about = {"kind": Mapping, "called": "option", **about}
    return Option(keys=keys, by=(by, named), **about)


def _parameters(
    function: Callable[..., Any], given: Sequence[str], value: Mapping[str, Any]
) -> Keys:
    """What a function or class takes by its signature but `given`, in a dict like `value`."""
    taken = plugins.parameters(function)
    known = {
        name: _parameter(parameter, taken.known, value)
        for name, parameter in taken.known.items()
        if name not in given
    }
    return Keys(known, Option(removable=True) if taken.others else None)


def _parameter(
    parameter: plugins.Parameter,
    parameters: Mapping[str, plugins.Parameter],
    value: Mapping[str, Any],
) -> Option:
    kind, default = parameter
    removable = default is not plugins.REQUIRED
    marks = typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ()
    for mark in marks:
        given = ()
        if isinstance(mark, plugins.OptionsOf):
            given = plugins.GIVEN.get(mark.kind, ())
            name = value.get(mark.by, parameters[mark.by].default)
            mark = plugins.load(mark.kind, name)
        keys = functools.partial(_parameters, mark, given)
        return Option(kind=kind, keys=keys, called="option", removable=removable)
    return Option(kind=kind, removable=removable)


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
    weight = _section(Weight, "weight.")
    weight = dataclasses.replace(weight, kind=float | Mapping, removable=True)

    def entry(key: str) -> Option:
        return _plugin(
            "objectives",
            key,
            own=lambda plugin: {"weight": weight},
            kind=float | Mapping,
            bare="weight",
            removable=True,
        )

    return Option(kind=Mapping, names=entry, begins=("name",), plugin="objectives")


def _evaluators() -> Option:
    def entry(key: str) -> Option:
        return _plugin("evaluators", key, removable=True)

    return Option(kind=Mapping, names=entry, begins=("name",), plugin="evaluators")


def _teachers() -> Option:
    def entry(key: str) -> Option:
        known = {name: Option(kind=kind) for name, kind in records.kinds(Teacher).items()}
        known["model"] = _plugin("models", kind=Mapping | None)
        known["init"] = _init()
        known["config"] = dataclasses.replace(tree(), kind=str | Mapping | None, run=True)
        return Option(kind=Mapping, keys=lambda value: Keys(known), removable=True)

    return Option(kind=Mapping, names=entry, begins=("path", "init", "cache", "config"))


def _init() -> Option:
    known = {name: Option(kind=kind) for name, kind in records.kinds(Init).items()}
    return Option(kind=str | Mapping | None, keys=lambda value: Keys(known))


# Places whose keys are names that the user chooses, or depend on what stands there.
_SPECIAL: Mapping[str, Callable[[], Option]] = {
    "model": lambda: _plugin("models"),
    "merge": lambda: _plugin("optim.merge"),
    "streams": _streams,
    "evaluate.evaluators": _evaluators,
    "teachers": _teachers,
    "init": _init,
}
