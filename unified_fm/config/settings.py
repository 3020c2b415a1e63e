"""The settings of a run: every key with its default, and the check of what a config says.

A config file starts from `defaults()` and sets what it needs; a key that does not exist here is an
error, as is a plugin that does not exist. Nothing here touches a device. `None` means "not used".

Keys:
    mode: "train", or "evaluate" the latest checkpoint.
    seed: of parameters, dropout, objectives and data.
    total_steps: steps of the run.
    plugins: modules of the user's; a *saved* config (a teacher's) may name plugins of these and of
        the library only (see `saved`). `--plugins=my_project,other` adds to them.
    prepare: "demo" makes the demo corpus before the run if it is absent, "demo:PART,PART" parts.
    model: `name` of the plugin and its options.
    tokenizer: see `data.tokenizer`.
    streams: {name: `data.streams.stream(...)`}.
    gradient_groups: {group: [streams]}; None is one group of all.
    merge: `name` of the plugin and its options.
    optimizer: of `optim.build.Settings`; `project` keeps parameters in an interval,
        [(path regex, (low, high))].
    rules: rule lists, or names of lists in `optim.build` and `sharding`.
    mesh: sizes of the axes; -1 is the rest.
    accumulate: micro-batches per step.
    ema: decay of the moving average of the parameters.
    init: a run or checkpoint, or weights of another library as "FAMILY:PATH"; or {"path": such, or
        "text": ... and "vision": ..., and how the names fit}; see `checkpoint.start`.
    checkpoint: `every` steps; `keep` latest, and the one where the metric `best` was best;
        `allow_changes` resumes although the data settings differ; `allow_fallback` resumes from
        an older step if the latest is damaged.
    log: `every` steps; `tensorboard`.
    telemetry: `every` steps (0: never) how the groups' gradients get along, per block of `shared`
        parameters (a regex; None: those of the merge): see `optim.telemetry`.
    evaluate: `every` steps (0: never) and `at_end`; `params` is "params" or "ema"; evaluators
        {name: {"name": plugin, options}}.
    teachers: {name: {"path": ..., "streams": [...]}}, see `teachers.build`; with "config":
        "FILE.py:ARGUMENT" instead of a path it is trained first, in WORKDIR/teachers/NAME.
    nonfinite: steps in a row that may be refused.
    spikes: of the gradient norm, see `spikes.Spikes`: they are counted, and `policy` "skip" makes
        no step of one.
    watchdog: `minutes` without progress after which the run ends (0: never); compilation does not
        count.
    report: whether to write report.html at the end.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from unified_fm import plugins, sharding
from unified_fm.checkpoint import start
from unified_fm.config import limits, options
from unified_fm.evaluators.base import HeldOut
from unified_fm.optim import build, schedules
from unified_fm.runtime import watchdog
from unified_fm.spikes import Spikes

# Marks a dict whose keys are names that the user chooses, or options of a plugin.
_FREE = ("model", "streams", "gradient_groups", "merge", "teachers")
_HARMLESS = ("threads", "max_skip")
_STREAM_KINDS = ("pipeline", "source", "batch_size", "objectives")


def defaults() -> dict[str, Any]:
    """Every setting with its default, as the head of this module explains them."""
    return {
        "mode": "train",
        "seed": 0,
        "total_steps": 1000,
        "plugins": (),
        "prepare": None,
        "model": {"name": "xfm"},
        "tokenizer": "bytes",
        "streams": {},
        "gradient_groups": None,
        "merge": {"name": "sum"},
        "optimizer": {
            "lr": 1e-4,
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "clip": 1.0,
            "project": (("temperature", (0.001, 0.5)),),
            "schedule": {"name": "linear", "warmup_steps": 0, "warmup_fraction": 0.0, "end": 0.0},
        },
        "rules": {"lr_scale": None, "weight_decay": None, "frozen": None, "sharding": None},
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
        "accumulate": 1,
        "ema": None,
        "init": None,
        "checkpoint": {
            "every": 1000,
            "keep": 3,
            "best": None,
            "best_mode": "max",
            "max_failures": 3,
            "allow_changes": False,
            "allow_fallback": False,
        },
        "log": {"every": 50, "tensorboard": True},
        "telemetry": {"every": 0, "scope": "layer", "shared": None},
        "evaluate": {"every": 0, "at_end": True, "params": "params", "evaluators": {}},
        "teachers": {},
        "nonfinite": {"max_in_a_row": 10},
        "spikes": {"policy": "clip", "sigma": 6.0, "window": 100},
        "watchdog": {"minutes": 15.0},
        "report": True,
    }


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in the defaults.

    Raises:
        ValueError: a key that does not exist, with the nearest one.
    """
    return _filled(defaults(), config, "config")


def check(config: Mapping[str, Any]) -> None:
    """Refuses settings that cannot work, before any device is touched.

    Raises:
        ValueError, TypeError: what was wrong, what was found, what is possible.
    """
    options.check(options.tree(defaults()), config, "config")
    for module in config["plugins"]:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ValueError(f"plugins names modules like my_project or a.b, found {module!r}")
    if not config["streams"]:
        raise ValueError("config.streams is empty: a run needs at least one stream")
    for name, stream in config["streams"].items():
        _check_stream(config, name, stream)
    limits.check(config)
    groups(config)
    merge(config)
    _check_model(config["model"])
    Spikes(**config["spikes"])
    watchdog.check(config["watchdog"]["minutes"])
    start.check(config["init"], "init")
    for name, teacher in config["teachers"].items():
        start.check(teacher.get("init"), f"teachers.{name}.init")
        if teacher.get("model"):
            _check_model(teacher["model"], f"teachers.{name}.model")
        for stream in teacher.get("streams") or ():
            if stream not in config["streams"]:
                known = plugins.possible(stream, config["streams"])
                raise ValueError(f"teachers.{name} names the stream {stream!r}; {known}")
    limits.best(config, _checked_evaluators(config))
    schedules.build(total_steps=config["total_steps"], **config["optimizer"]["schedule"])
    for kind, rules in config["rules"].items():
        (sharding.named_rules(rules) if kind == "sharding" else build.named_rules(kind, rules))
    if config["prepare"] and config["prepare"].partition(":")[0] != "demo":
        raise ValueError(f"prepare is 'demo' or 'demo:PART,PART', found {config['prepare']!r}")


def groups(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The gradient groups, {group: [streams]}.

    Raises:
        ValueError: an unknown stream, or a stream that is in no group or in two.
    """
    streams = list(config["streams"])
    given = config["gradient_groups"] or {"all": streams}
    if not isinstance(given, Mapping):
        raise ValueError(f"gradient_groups is {{group: [streams]}}, found {given!r}")
    named = [stream for members in given.values() for stream in members]
    for stream in named:
        if stream not in streams:
            raise ValueError(
                f"gradient_groups names the stream {stream!r}; {plugins.possible(stream, streams)}"
            )
    for stream in streams:
        if named.count(stream) != 1:
            raise ValueError(
                f"stream {stream!r} is in {named.count(stream)} gradient groups; each stream "
                "belongs to exactly one"
            )
    return {group: list(members) for group, members in given.items()}


def merge(config: Mapping[str, Any]) -> Any:
    """Builds the merge of the gradient groups; one with a ramp is told how long the run is.

    Raises:
        ValueError, TypeError: groups that do not exist, a ramp that ends after the run, or another
            option that cannot work.
    """
    chosen = dict(config["merge"])
    if "name" not in chosen:
        known = plugins.possible("", plugins.choices("optim.merge"))
        raise ValueError(f"config.merge has no 'name'; {known}")
    name = chosen.pop("name")
    if "total_steps" in inspect.signature(plugins.load("optim.merge", name)).parameters:
        chosen.setdefault("total_steps", config["total_steps"])
    return plugins.build("optim.merge", name, groups=list(groups(config)), **chosen)


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the differences that give a resumed run other data or another model.

    The seed, the model, the tokenizer and the streams are compared; rates, lengths, devices and
    logging may change, and so may what a stream's order and arrays do not depend on.
    """
    lines = []
    for key in ("seed", "model", "tokenizer", "streams", "gradient_groups", "merge"):
        old, new = _flat(before.get(key), key), _flat(now.get(key), key)
        for name in sorted(set(old) | set(new)):
            if key == "streams" and name.split(".")[2] in _HARMLESS:
                continue
            if old.get(name, "absent") != new.get(name, "absent"):
                lines.append(f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}")
    return lines


def _filled(known: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in given:
        if key not in known:
            raise ValueError(f"{where} has no key {key!r}; {plugins.possible(key, known)}")
    result = {}
    for key, default in known.items():
        value = given.get(key, default)
        if isinstance(default, dict) and key not in _FREE and key != "evaluators":
            if not isinstance(value, Mapping):
                raise TypeError(f"{where}.{key} is a dict, found {value!r}")
            value = _filled(default, value, f"{where}.{key}")
        result[key] = value
    return result


def _check_stream(config: Mapping[str, Any], name: str, stream: Mapping[str, Any]) -> None:
    for key in _STREAM_KINDS:
        if key not in stream:
            raise ValueError(f"stream {name!r} has no {key!r}; found {', '.join(stream)}")
    if not stream["objectives"]:
        raise ValueError(f"stream {name!r} has no objectives: nothing would be learnt from it")
    for key, value in stream["objectives"].items():
        made, weight = objective(key, value)
        if not math.isfinite(weight):
            raise ValueError(f"config.streams.{name}.objectives.{key} has the weight {weight!r}")
        if getattr(made, "target", None) == "ema" and config["ema"] is None:
            raise ValueError(
                f"config.streams.{name}.objectives.{key} has target='ema', so config.ema must be a "
                "decay like 0.999"
            )


def objective(key: str, value: Any) -> tuple[Any, float]:
    """Builds one entry of a stream's objectives.

    Args:
        key: the name in the log, and of the plugin unless `value` names another.
        value: the weight, or {"weight": ..., "name": plugin, options}.

    Returns:
        The objective and its weight.
    """
    chosen = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = float(chosen.pop("weight", 1.0))
    return plugins.build("objectives", chosen.pop("name", key), **chosen), weight


def _check_model(config: Mapping[str, Any], place: str = "model") -> None:
    """Makes the model, which touches no device, and lets it refuse its options if it can."""
    model = _built("models", dict(config), place)
    if hasattr(model, "check"):
        try:
            model.check()
        except ValueError as error:
            raise ValueError(f"config.{place}: {error}") from error


def _checked_evaluators(config: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the evaluators, without the tokenizer that they are given later."""
    made = {}
    for name, entry in config["evaluate"]["evaluators"].items():
        place = f"evaluate.evaluators.{name}"
        made[name] = _built("evaluators", {"name": name, **entry}, place)
        if isinstance(made[name], HeldOut):
            options = {**made[name].pipeline_options}
            limits.check_pipeline(made[name].pipeline, options, f"config.{place}.options")
    return made


def _built(kind: str, options: dict[str, Any], place: str) -> Any:
    plugin = plugins.load(kind, options.pop("name"))
    missing = [
        name
        for name, parameter in inspect.signature(plugin).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.KEYWORD_ONLY
        and name not in (*options, "tokenizer")
    ]
    if missing:
        raise TypeError(f"config.{place} lacks {', '.join(missing)}")
    try:
        return plugin(**options)
    except ValueError as error:
        raise ValueError(f"config.{place}: {error}") from error


def _flat(tree: Any, prefix: str) -> dict[str, str]:
    if isinstance(tree, Mapping):
        return {
            name: value
            for key, sub in tree.items()
            for name, value in _flat(sub, f"{prefix}.{key}").items()
        }
    return {prefix: str(list(tree) if isinstance(tree, tuple) else tree)}
