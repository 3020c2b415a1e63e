"""The settings of a run: every key with its default, its limits and a line about it.

A config file begins with `start()` and sets what it needs; a key that does not exist here is an
error. What the options of a plugin are (a model, the pipeline of a stream, an objective, a merge,
an evaluator) the plugin says: they stay plain dicts here, and `checks` compares them with it.
Nothing here touches a device. `None` means "not used".
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from unified_fm import choices, plugins
from unified_fm.config.records import Range, Record, record, required, section, setting

_POSITIVE, _NOT_NEGATIVE = Range(1), Range(0)
_SHARE, _DECAY, _ABOVE = Range(0, 1), Range(0, 1, open_high=True), Range(0, open_low=True)
_OR = "or '1 epoch', '10%'"  # of durations, see `durations`
_Rules = str | Sequence[Any] | None


@record
class Stream(Record):
    """A dataset with a purpose: source, pipeline, batch size, and what is learnt from it."""

    sparse, rest = True, "options"

    pipeline: str = required("name of the plugin that makes arrays of an example")
    source: str | Sequence[str] = required("'jsonl:FILE', 'array_record:STEM', ...; '+' joins some")
    batch_size: int = required("rows of the global batch", _POSITIVE)
    objectives: Mapping[str, Any] = required("{name: weight, or dict(weight=..., option=...)}")
    max_skip: float = setting(0.01, "largest share of unusable records; 0: none", _SHARE)
    shuffle: bool = setting(True, "whether each epoch has an order of its own")
    weights: Sequence[Any] | None = setting(
        None, "of the sources in a list: [3, 1], or [(0, [3, 1]), ('50%', [1, 1]), ...]"
    )
    cycle: int = setting(0, "epochs after which everything repeats; 0: never", _NOT_NEGATIVE)
    threads: int | None = setting(None, "of the loader; one per core", _NOT_NEGATIVE)
    images: int | None = setting(None, "of the global batch, where rows are packed", _POSITIVE)
    groups: int | None = setting(None, "of rows that refer to each other (ITM, regions)", _POSITIVE)
    options: Mapping[str, Any] = setting({}, "of the pipeline")


@record
class Loading(Record):
    """Who makes the examples of the streams; what is in them does not depend on it."""

    processes: int | None = setting(
        None, "of their own; 0: threads of the run; as suits cores and pictures", _NOT_NEGATIVE
    )
    patience: float = setting(120.0, "seconds for an example before one is stuck", _ABOVE)


@record
class Init(Record):
    """Parameters to start from, and how their names fit; see `checkpoint.start`."""

    sparse = True

    path: str | None = setting(None, "a run, a checkpoint, FAMILY:PATH of another library; scratch")
    all: str | None = setting(None, "the same as path")
    text: str | None = setting(None, "the same for the text side alone")
    vision: str | None = setting(None, "the same for the image side alone")
    step: int | None = setting(None, "of a run; the latest")
    heads: int | Mapping[str, int] | None = setting(None, "of foreign weights that do not say")
    rename: Sequence[Any] | None = setting(None, "[(path regex there, name here)]")
    copy: Sequence[Any] | None = setting(None, "[(path regex there, a further name here)]")
    fresh: Sequence[str] | None = setting(None, "path regexes that are initialised anew")
    allow: Sequence[str] | None = setting(None, "path regexes that may be missing or left over")
    leave: Sequence[str] | None = setting(None, "path regexes that may be left over")


@record
class Teacher(Record):
    """A frozen model that some streams are shown to; or what it has said about them before."""

    sparse = True

    path: str | None = setting(None, "a run or a checkpoint of ours")
    step: int | None = setting(None, "of that run; the latest")
    init: Init | str | None = setting(None, "FAMILY:PATH, weights of another library")
    heads: int | Mapping[str, int] | None = setting(None, "of foreign weights that do not say")
    model: Mapping[str, Any] | None = setting(None, "name and options; what the path says")
    config: "Settings | str | None" = setting(None, "FILE.py:ARGUMENT, a run to train it first")
    cache: str | None = setting(None, "a folder that `unified-fm cache` has written")
    streams: Sequence[str] | None = setting(None, "those that it sees")


@record
class Schedule(Record):
    """Of the learning rate."""

    name: str = setting("linear", "linear, cosine or constant, after the warm-up")
    warmup: int | str = setting(0, f"updates of the warm-up, {_OR}", _NOT_NEGATIVE)
    end: float = setting(0.0, "the rate at the end, as a share of the peak", _SHARE)


@record
class Optimizer(Record):
    """AdamW, behind the merge."""

    lr: float = setting(1e-4, "peak learning rate", _NOT_NEGATIVE)
    b1: float = setting(0.9, "decay of the mean of the gradients", _DECAY)
    b2: float = setting(0.98, "decay of the mean of their squares", _DECAY)
    eps: float = setting(1e-8, "added to the root of that mean", _ABOVE)
    weight_decay: float = setting(0.01, "decoupled; times the rate and its rules", Range(0))
    clip: float | None = setting(1.0, "largest global norm of the merged gradient", _ABOVE)
    project: Sequence[Any] | None = setting(
        (("temperature", (0.001, 0.5)),), "[(path regex, (low, high))]: parameters kept inside"
    )
    schedule: Schedule = section(Schedule)

    def __post_init__(self) -> None:
        """Raises ValueError: also for a projection that is none."""
        super().__post_init__()
        for rule in self.project or ():
            place = "project lists (path regex, (low, high))"
            try:
                pattern, (low, high) = rule
                re.compile(pattern)
                right = low <= high
            except (TypeError, ValueError, re.error) as error:
                raise ValueError(f"{place}, found {rule!r}: {error}") from error
            if not right:
                raise ValueError(f"{place}, found {rule!r}: {low!r} is above {high!r}")


@record
class Rules(Record):
    """Numbers of each parameter by its path: [(path regex, value)], or the name of such a list."""

    lr_scale: _Rules = setting(
        None, "factor of the learning rate: plain, correct, official, layerwise:DECAY"
    )
    weight_decay: _Rules = setting(None, "factor of the weight decay: plain, correct, official")
    frozen: _Rules = setting(None, "true: the parameter stays as it is")
    sharding: _Rules = setting(None, "where it lies on the mesh: replicate, fsdp, tensor")


@record
class Mesh(Record):
    """How many devices lie along each axis; -1: the rest of them."""

    data: int = setting(-1, "parts of a batch")
    fsdp: int = setting(1, "parts of a batch, of parameters and of the optimizer's state")
    tensor: int = setting(1, "parts of attention heads and hidden layers, by rules.sharding=tensor")

    def __post_init__(self) -> None:
        """Raises ValueError: sizes that cannot be."""
        super().__post_init__()
        for axis, size in vars(self).items():
            if size != -1 and size < 1:
                raise ValueError(
                    f"{axis} must be an integer of at least 1, or -1 (the rest of the devices), "
                    f"found {size!r}"
                )
        rest = [axis for axis, size in vars(self).items() if size == -1]
        if len(rest) > 1:
            raise ValueError(f": at most one size is -1 (the rest), found {', '.join(rest)}")


@record
class Checkpoint(Record):
    """What is saved, and from what a run may go on."""

    every: int | str = setting(1000, f"steps between two saves, {_OR}", _POSITIVE)
    keep: int = setting(3, "latest steps to keep", _POSITIVE)
    best: str | None = setting(None, "a metric; the step where it was best is kept, too")
    best_mode: str = setting("max", "what is best: max or min", choices=("max", "min"))
    max_failures: int = setting(3, "saves that may fail in a row", _POSITIVE)
    allow_changes: bool = setting(False, "resume although the data settings differ")
    allow_fallback: bool = setting(False, "resume from an older step if the latest is damaged")


@record
class Log(Record):
    """metrics.jsonl, the lines on the screen, and TensorBoard."""

    every: int = setting(50, "steps between two lines", _POSITIVE)
    tensorboard: bool = setting(True, "whether to write TensorBoard files")


@record
class Telemetry(Record):
    """How the gradient groups get along, measured and logged."""

    every: int = setting(0, "steps between two measurements; 0: never", _NOT_NEGATIVE)
    scope: str = setting(
        "layer", "what is a block: model, layer or tensor", choices=("model", "layer", "tensor")
    )
    shared: str | None = setting(None, "regex of the shared parameters; those of the merge")


@record
class Evaluate(Record):
    """When, of which parameters, and what."""

    every: int | str = setting(0, f"steps between two evaluations, {_OR}; 0: never", _NOT_NEGATIVE)
    at_end: bool = setting(True, "whether the last step is evaluated")
    params: str = setting("params", "params, or ema: the average", choices=("params", "ema"))
    step: int | str | None = setting(None, "what mode=evaluate reads: a step, or best; the latest")
    evaluators: Mapping[str, Mapping[str, Any]] = setting({}, "{name: name of the plugin, options}")


@record
class Nonfinite(Record):
    """Steps whose loss, gradient or new state is not finite change nothing."""

    max_in_a_row: int = setting(10, "such steps in a row that end the run", _POSITIVE)


@record
class Spikes(Record):
    """Of the gradient norm: they are counted, and perhaps left out."""

    policy: str = setting(
        "clip", "clip: as any step; skip: changes nothing", choices=("clip", "skip")
    )
    sigma: float = setting(6.0, "so many deviations above the mean of the window", _ABOVE)
    window: int = setting(100, "norms in the window, at least 2; 0: nothing is a spike")

    def __post_init__(self) -> None:
        """Raises ValueError: also for a window of one norm."""
        super().__post_init__()
        if self.window < 0 or self.window == 1:
            raise ValueError(
                f"window must be an integer of at least 2, or 0 (off), found {self.window!r}"
            )


@record
class Watchdog(Record):
    """Ends a run that makes no progress."""

    minutes: float = setting(15.0, "without progress, compilation aside; 0: never", Range(0))


@record
class Settings(Record):
    """All of a run."""

    mode: str = setting(
        "train", "train, or evaluate a checkpoint of the run", choices=("train", "evaluate")
    )
    seed: int = setting(0, "of parameters, dropout, objectives and data")
    total_steps: int | str = setting(
        1000, "steps of the run, or '15 epochs', '3 epochs of STREAM'", _POSITIVE
    )
    plugins: Sequence[str] = setting((), "modules whose plugins a saved config may name, too")
    prepare: str | None = setting(None, "demo, or demo:PART,PART: makes that corpus if absent")
    model: Mapping[str, Any] = setting(
        {"name": "xfm"},
        "name of the plugin, and its options; of=RUN or init: those there too",
    )
    tokenizer: str = setting("bytes", "bytes, files of one or their folder, or hf:OWNER/NAME")
    streams: Mapping[str, Stream] = setting({}, "{name: a stream}")
    loader: Loading = section(Loading)
    gradient_groups: Mapping[str, Sequence[str]] | None = setting(
        None, "{group: [streams]}; one group of all"
    )
    merge: Mapping[str, Any] = setting(
        {"name": "sum"}, "of the groups' gradients: name of the plugin, and its options"
    )
    optimizer: Optimizer = section(Optimizer)
    rules: Rules = section(Rules)
    mesh: Mesh = section(Mesh)
    xla: str = setting("", "flags of the compiler by name: gpu-default, tpu-default, ...; none")
    accumulate: int = setting(1, "micro-batches per step", _POSITIVE)
    joint: bool = setting(True, "rows of all streams go through an encoder together")
    ema: float | None = setting(None, "decay of the average of the parameters", _DECAY)
    init: Init | str | None = setting(None, "parameters to start from: RUN, FAMILY:PATH, or a dict")
    checkpoint: Checkpoint = section(Checkpoint)
    log: Log = section(Log)
    telemetry: Telemetry = section(Telemetry)
    evaluate: Evaluate = section(Evaluate)
    teachers: Mapping[str, Teacher] = setting({}, "{name: a teacher}")
    nonfinite: Nonfinite = section(Nonfinite)
    spikes: Spikes = section(Spikes)
    watchdog: Watchdog = section(Watchdog)
    report: bool = setting(True, "whether to write report.html at the end")

    @property
    def groups(self) -> dict[str, list[str]]:
        """The gradient groups, {group: [streams]}; one of all streams where none is given."""
        given = self.gradient_groups or {"all": list(self.streams)}
        return {group: list(members) for group, members in given.items()}

    @property
    def evaluates(self) -> bool:
        """Whether the run evaluates at all."""
        return bool(self.evaluate.every or self.evaluate.at_end or self.mode == "evaluate")

    @property
    def samples_per_step(self) -> int:
        """Rows of all streams in one step."""
        return sum(stream.batch_size for stream in self.streams.values())

    def own_runs(self) -> "dict[str, Settings]":
        """{teacher: its settings} of those teachers that this run trains first."""
        entries = self.teachers.items()
        return {name: t.config for name, t in entries if isinstance(t.config, Settings)}


def start(argument: str = "", known: Sequence[str] = ()) -> ConfigDict:
    """Every setting with its default: what `get_config(argument)` of a config file begins with.

        c = settings.start(argument, known=("smoke", "demo"))
        if "smoke" in argument: ...

    Args:
        argument: words joined by commas, as they follow the name of the config behind a colon.
        known: those that the config knows; "chips=" is followed by a number, see `number`.

    Raises:
        ValueError: another word, with the nearest that it knows.
    """
    for word in argument.split(",") if argument else ():
        name, equals, _ = word.partition("=")
        if name + equals not in known:
            possible = choices.possible(word, known)
            raise ValueError(f"unknown argument {word!r} after ':'; {possible}")
    # Types are checked when the whole is read: here an integer may still become "15 epochs".
    return ConfigDict(Settings().plain(), type_safe=False)


def one_of(argument: str, names: Sequence[str]) -> str:
    """The one of some words that is in the argument of a config; "": none is.

    Raises:
        ValueError: several of them.
    """
    found = [word for word in argument.split(",") if word in names]
    if len(found) > 1:
        raise ValueError(
            f"arguments {' and '.join(found)} after ':' exclude each other; one of "
            f"{', '.join(names)} is possible"
        )
    return found[0] if found else ""


def number(argument: str, name: str, default: int) -> int:
    """The N of the word "NAME=N" in the argument of a config, or the default.

    Raises:
        ValueError: no positive integer.
    """
    found = dict(word.split("=", 1) for word in argument.split(",") if "=" in word).get(name)
    if found is None:
        return default
    if not found.isdigit() or int(found) < 1:
        raise ValueError(f"argument {name}={found!r} after ':' is to be a positive integer")
    return int(found)


def of_plugin(chosen: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """The name of a plugin and its options, from a dict that has both.

    Raises:
        ValueError: there is no name in it.
    """
    options = dict(chosen)
    name = options.pop("name", None)
    if not isinstance(name, str):
        known = choices.possible(str(name or ""), plugins.names(kind))
        raise ValueError(f"a {kind} plugin is named by 'name', found {dict(chosen)!r}; {known}")
    return name, options
