"""The plugins that settings name, made with the options that stand beside the name."""

from collections.abc import Callable, Mapping
from typing import Any

from unified_fm import choices, plugins
from unified_fm.config import durations, weights
from unified_fm.config.settings import Settings
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.evaluators.base import Evaluator, Passes, Place
from unified_fm.objectives.base import Objective
from unified_fm.optim import schedules
from unified_fm.optim.merge.base import Merge, as_merge


def model(chosen: Mapping[str, Any], place: str = "model") -> Any:
    """Makes a model.

    Raises:
        ValueError, TypeError: no such model, or an option that cannot be; so in all functions here.
    """
    return _made("models", {**chosen}, place)


def objective(
    key: str, value: Any, tokenizer: Tokenizer | None = None, place: str = "objectives"
) -> tuple[Objective, float]:
    """Makes one entry of a stream's objectives.

    Args:
        key: the name in the log, and of the plugin unless `value` names another.
        value: the weight, or {"weight": ..., "name": plugin, options}.
        tokenizer: the run's, for those that take it.
        place: where it stands, for messages.

    Returns:
        The objective and its weight; the peak of one that changes (`schedules_of_weights`).
    """
    chosen = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = weights.read(chosen.pop("weight", 1.0), f"{place}.{key}.weight")
    if isinstance(weight, weights.Weight):
        weight = weight.peak
    name = chosen.pop("name", key)
    if "tokenizer" in plugins.parameters(plugins.load("objectives", name)).known:
        chosen["tokenizer"] = tokenizer
    return plugins.build("objectives", name, **chosen), weight


def schedules_of_weights(
    settings: Settings, counts: durations.Counts, total: Callable[[], int]
) -> dict[str, dict[str, Callable]]:
    """{stream: {objective: steps made -> factor of its weight f32[]}} of the weights that change.

    Args:
        settings: of the run.
        counts: as for `durations.resolve`, as soon as `total` has been asked.
        total: gives the steps of the run; asked only if a weight changes.

    Raises:
        ValueError: a schedule that ends after the run, or whose warm-up does.
    """
    made: dict[str, dict[str, Callable]] = {}
    for each, numbers in durations.of_weights(settings, counts, total):
        steps, until = total(), numbers["total_steps"]
        if until > steps:
            raise ValueError(
                f"config.{each.place}.until is step {until}, after the run: total_steps={steps}"
            )
        try:
            schedule = schedules.build(**numbers)
        except ValueError as error:
            raise ValueError(f"config.{each.place}: {error}") from error
        made.setdefault(each.stream, {})[each.objective] = schedule
    return made


def merge(settings: Settings, total_steps: int | None) -> Merge:
    """Makes the merge of the gradient groups, for a run of this length if it is known."""
    what = f"optim.merge.{_name(settings.merge)}"
    chosen = {**settings.merge, "groups": list(settings.groups)}
    made = as_merge(_made("optim.merge", chosen, "merge"), what)
    try:
        return made if total_steps is None else made.for_run(total_steps)
    except ValueError as error:
        raise ValueError(f"config.merge: {error}") from error


def evaluators(
    settings: Settings, tokenizer: Tokenizer | None = None, passes: Passes | None = None
) -> dict[str, Evaluator]:
    """Makes the evaluators, with the tokenizer and the held-out data that they share."""
    made, streams = {}, settings.plain()["streams"]
    given = {"tokenizer": tokenizer, "streams": streams, "passes": passes or Passes()}
    for key, entry in settings.evaluate.evaluators.items():
        options = {"name": key, **entry, **given, "place": Place(key)}
        made[key] = _made("evaluators", options, f"evaluate.evaluators.{key}")
    return made


def without_teachers(settings: Settings) -> Settings:
    """The settings without teachers and what is learnt from them: the same parameters, mostly."""
    alone = {}
    for name, stream in settings.streams.items():
        made = {key: objective(key, value)[0] for key, value in stream.objectives.items()}
        kept = {key: stream.objectives[key] for key in made if not made[key].lessons}
        alone[name] = stream.replace(objectives=kept)
    return settings.replace(streams=alone, teachers={})


def _name(chosen: Mapping[str, Any]) -> str:
    if "name" not in chosen:
        known = choices.possible("", plugins.names("optim.merge"))
        raise ValueError(f"config.merge has no 'name'; {known}")
    return chosen["name"]


def _made(kind: str, options: dict[str, Any], place: str) -> Any:
    name = options.pop("name")
    plugin = plugins.load(kind, name)
    missing = [
        option
        for option, parameter in plugins.parameters(plugin).known.items()
        if parameter.default is plugins.REQUIRED
        and option not in (*options, *plugins.GIVEN.get(kind, ()))
    ]
    if missing:
        raise TypeError(f"config.{place} lacks {', '.join(missing)}")
    plugins.check_keywords(plugin, options, what=f"{kind}.{name}")
    try:
        return plugin(**options)
    except ValueError as error:
        raise ValueError(f"config.{place}: {error}") from error
