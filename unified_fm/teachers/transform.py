"""Frozen teachers: parameter trees that turn a batch into targets, on the device.

A teacher is a data transform. Its parameters are a separate argument of the step, never donated,
never in the optimizer, never in a checkpoint of the run; they lie on the mesh by the same sharding
rules. It runs without random numbers, so without dropout, on the arrays that the student sees: the
same augmented image, the same masked words. It is shown no more of them than what is learnt from it
takes, so a model of images alone can teach a stream of images with texts.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
from etils import epath

from unified_fm import placement, rules, sharding
from unified_fm.checkpoint import start
from unified_fm.config import chosen, saved
from unified_fm.config import settings as config
from unified_fm.convert.table import unflatten
from unified_fm.placement import Placement
from unified_fm.teachers import cache as teacher_cache


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """One frozen model.

    Attributes:
        model: has a method `targets(batch) -> {name: array}`, rows on axis 0 (`models.base`);
            None = what it teaches is read from a cache.
        streams: names of the streams that it sees.
        classes: {what it teaches: number of classes or words}, of a cache; where that has fewer
            logits the target is an `objectives.lumps.Truncated`.
        lessons: {stream: which of its arrays objectives read}.
    """

    model: Any
    streams: Sequence[str]
    classes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lessons: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)

    def shown(self, stream: str, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What of a stream's batch it is shown, for what is learnt from it."""
        return dict(self.model.shown(batch, self.lessons.get(stream, ())))

    def reads_text(self, batches: Mapping[str, Any]) -> bool:
        """Whether it is shown the words of a stream."""
        seen = (self.shown(stream, batches[stream]) for stream in self.streams)
        return any({"text", "text_masked"} & {*batch} for batch in seen)


@dataclasses.dataclass(frozen=True, eq=False)  # by identity: jit needs a hash
class Transform:
    """`(teacher_params, batches) -> batches` with `batch["teacher"][name]` added.

    The batches may be those of some streams only.

    Attributes:
        members: {name: teacher}.
        placements: {name: what the mesh asks of its parameters inside a step}; that in force for
            others.
    """

    members: Mapping[str, Teacher]
    placements: Mapping[str, Placement] = dataclasses.field(default_factory=dict)

    def __call__(self, teacher_params: Any, batches: Mapping[str, Any]) -> dict[str, Any]:
        batches = dict(batches)
        for name, teacher in self.members.items():
            for stream in teacher.streams:
                if stream not in batches:
                    continue
                batch = dict(batches[stream])
                if teacher.model is None:
                    targets = teacher_cache.targets(batch["cached"][name], teacher.classes)
                else:
                    where = self.placements.get(name, placement.current())
                    with placement.use(where):
                        variables = {"params": where.params("", teacher_params[name])}
                        seen = teacher.shown(stream, batch)
                        targets = teacher.model.apply(variables, seen, method="targets")
                targets = jax.lax.stop_gradient(targets)
                batches[stream] = {**batch, "teacher": {**batch.get("teacher", {}), name: targets}}
        return batches


def make_transform(teachers: Mapping[str, Teacher]) -> Transform:
    """Makes what a step calls to let the teachers enrich its batches."""
    return Transform(teachers)


def build(
    entries: Mapping[str, config.Teacher],
    modules: Sequence[str] = (),
    lessons: Mapping[str, Mapping[str, Collection[str]]] = MappingProxyType({}),
) -> dict[str, Teacher]:
    """Makes the teachers of a run.

    Args:
        entries: {name: its settings}: `streams`, and one of `path`, `init` or `cache`. The model is
            by default that of the run in `path`, or of `config`, which trains it, or what
            `config.json` beside the foreign weights tells.
        modules: those whose plugins the run in `path` may name; see `config.saved`.
        lessons: {name: {stream: which of its arrays the stream's objectives read}}.

    Raises:
        ValueError, TypeError: an entry that lacks a key or names an unknown model.
        plugins.Unnamed: a run whose model is a plugin that nobody has named.
    """
    teachers = {}
    for name, entry in entries.items():
        given = [key for key, value in entry.plain().items() if value is not None]
        if not {"path", "init", "cache"} & set(given):
            raise ValueError(
                f"teachers.{name} has no 'path'; found {', '.join(given)}. A teacher has a path "
                "(or config, which trains it first; init: foreign weights; or cache)"
            )
        if "streams" not in given:
            raise ValueError(f"teachers.{name} has no 'streams'; found {', '.join(given)}")
        model, classes = None, {}
        if entry.cache:
            classes = teacher_cache.open_cache(entry.cache).about["keys"]
        else:
            model = _model(name, entry, modules)
        teachers[name] = Teacher(
            model=model,
            streams=tuple(entry.streams or ()),
            classes=classes,
            lessons=lessons.get(name, {}),
        )
    return teachers


def load_params(
    entries: Mapping[str, config.Teacher],
    teachers: Mapping[str, Teacher],
    batches: Mapping[str, Any],
    mesh: Any,
    sharding_rules: Any = None,
    *,
    words: int | None = None,
) -> dict[str, Any]:
    """Loads the teachers' parameters onto the mesh, {name: tree}; only what they teach with.

    `batches` is one batch of every stream, `words` the number of ids of the run's tokenizer.

    Raises:
        ValueError: no checkpoint at a path, a damaged one, or one that does not fit the teacher's
            model or the streams: with both sides' values.
    """
    params = {}
    for name, teacher in teachers.items():
        if teacher.model is None:
            params[name] = {}
            continue
        known = teacher.model.vocab_size if teacher.reads_text(batches) else None
        if words is not None and known is not None and known < words:
            raise ValueError(
                f"teachers.{name} knows vocab_size = {known} words, the run's tokenizer has {words}"
            )
        wanted = {key: x.shape for key, x in _wanted(name, teacher, batches).items()}
        tree = _fitting(name, entries[name], wanted)
        where = sharding.params_shardings(mesh, tree, sharding_rules)
        params[name] = jax.device_put(tree, where)
    return params


def shapes(teachers: Mapping[str, Teacher], batches: Mapping[str, Any]) -> dict[str, Any]:
    """{teacher: the parameters that it teaches with}, as `jax.ShapeDtypeStruct`; opens no file.

    Raises:
        ValueError: a stream that a teacher cannot see.
    """
    return {
        name: unflatten(_wanted(name, teacher, batches)) if teacher.model is not None else {}
        for name, teacher in teachers.items()
    }


def _model(name: str, entry: config.Teacher, modules: Sequence[str]) -> Any:
    own = entry.config.model if isinstance(entry.config, config.Settings) else None
    told = entry.model or own or start.model_of(entry.plain().get("init"))
    return chosen.model(told or saved_model(name, entry.path, modules), f"teachers.{name}.model")


def saved_model(name: str, path: Any, modules: Sequence[str]) -> Mapping[str, Any]:
    """The model of the run in `path`."""
    for folder in (epath.Path(path), epath.Path(path).parent) if path else ():
        try:
            model = saved.read(folder, modules).get("model")
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not (isinstance(model, Mapping) and isinstance(model.get("name"), str)):
            raise ValueError(f"teachers.{name}: config.json in {folder} names no model: {model!r}")
        return model
    where = f"and there is no config.json in {path}" if path else "and foreign weights do not say"
    raise ValueError(f"teachers.{name} has no 'model', {where}: which model is it?")


def _wanted(name: str, teacher: Teacher, batches: Mapping[str, Any]) -> dict[str, Any]:
    """{path: its shape and dtype} of the parameters that the teacher uses on its streams."""
    wanted: dict[str, Any] = {}
    for stream in teacher.streams:
        try:
            tree = jax.eval_shape(
                lambda batch: teacher.model.init(jax.random.key(0), batch, method="targets"),
                teacher.shown(stream, batches[stream]),
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"teachers.{name} cannot see stream {stream!r}: {error}") from error
        wanted |= rules.named_leaves(tree.get("params", {}))
    return wanted


def _fitting(name: str, entry: config.Teacher, wanted: Mapping[str, Any]) -> Any:
    """The parameters of these paths and shapes, from the teacher's checkpoint."""
    init = entry.plain().get("init") or entry.path
    options = dict(init) if isinstance(init, Mapping) else {"path": init}
    told = {"step": entry.step, "heads": entry.heads}
    options |= {key: value for key, value in told.items() if value is not None}
    title = f"teachers.{name}: {init} is of another model:"
    return unflatten(start.read(options, wanted, title=title, partial=True).arrays)
