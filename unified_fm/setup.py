"""From settings to all that a run is made of, in one place and once.

    ready = setup.prepare(settings)
    state, teachers = ready.fresh_state(), ready.load_teachers()
    batches = ready.place(next(ready.open_streams()))
    state, metrics = ready.train_step()(state, teachers, batches)

The loop, the evaluation, the benchmark, the table of parameters, the teachers' cache and
experiments start from here. Nothing is made before it is asked for: who wants the shapes of the
parameters needs no data, no teacher's file and no device, who evaluates needs no training data.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from unified_fm import constraints, joint, sharding, step
from unified_fm import placement as placements
from unified_fm.checkpoint import start
from unified_fm.config import checks, chosen, durations, saved
from unified_fm.config.settings import Settings
from unified_fm.data import streams
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.batching import Part
from unified_fm.data.loader import Loader
from unified_fm.data.streams import Streams
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.evaluators.base import Evaluator, Passes
from unified_fm.optim import build, schedules
from unified_fm.optim import spikes as gradient_spikes
from unified_fm.optim import telemetry as measurements
from unified_fm.optim.merge.base import Refresh
from unified_fm.runtime import compile_times, heap
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import transform as teachers


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What a run is made of. What is a property is made when it is first asked for, and kept.

    Attributes:
        settings: of the run.
        tokenizer: of the run.
        program: what is learnt from what.
        shapes: {stream: {array: `jax.ShapeDtypeStruct`}} of the global batches.
        devices: of the mesh; None: all there are. Those of a topology that is not here will do for
            everything but numbers: `train_step().lower(target, ...)` compiles for it.
        counts: {stream: records and batch}, as far as they are known, for durations in epochs.
    """

    settings: Settings
    tokenizer: Tokenizer
    program: step.Program
    shapes: Mapping[str, Any]
    devices: Sequence[Any] | None = None
    counts: dict[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def steps(self) -> durations.Steps:
        """How long the run is, its warm-up and its intervals, in steps.

        Raises:
            ValueError: they do not fit each other, or the data whose epochs count cannot be opened.
        """
        for name in durations.streams(self.settings) - self.counts.keys():
            entry = self.settings.streams[name].plain()
            entry["weights"] = durations.even(self.settings, name)  # its length is the same by any
            loader = Loader(name, entry, seed=self.settings.seed, tokenizer=self.tokenizer)
            self.counts[name] = {"records": loader.records, "batch": loader.slots}
        return checks.resolved(self.settings, self.counts)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices.

        Raises:
            ValueError: sizes that do not fit their number, or that do not divide the batches.
        """
        sizes = self.settings.mesh.plain()
        if self.devices is None:
            mesh = sharding.make_mesh(**sizes)
        else:
            mesh = sharding.make_mesh(devices=self.devices, **sizes)
        sharding.check_divisible(mesh, self.shapes, self.settings.accumulate)
        return mesh

    @functools.cached_property
    def placed(self) -> step.Program:
        """The program, and what the mesh asks of it and of its teachers inside a step.

        Raises:
            ValueError: the mesh would cut what must stay whole, or waste devices.
        """
        rules, taught = self.settings.rules.sharding, self.teacher_shapes
        idle = self.settings.mesh.tensor == -1  # whatever is left, to no end if need be
        fits = functools.partial(constraints.check, self.mesh, self.program, self.shapes)
        fits(self.params, taught=taught, rules=rules, idle=idle)
        place = functools.partial(constraints.placement, self.mesh, rules=rules)
        known: Any = self.program.teachers
        placed = {name: place(tree) for name, tree in taught.items()}
        known = dataclasses.replace(known, placements=placed)
        return dataclasses.replace(self.timed, placement=place(self.params), teachers=known)

    @functools.cached_property
    def timed(self) -> step.Program:
        """The program with the schedules of the weights that change over the run."""
        found = chosen.schedules_of_weights(self.settings, self.counts, lambda: self.steps.total)
        return dataclasses.replace(self.program, schedules=found) if found else self.program

    @functools.cached_property
    def batches(self) -> Mapping[str, Any]:
        """`shapes`, with where they lie."""
        return sharding.on_mesh(self.shapes, sharding.of_batches(self.mesh))

    def open_streams(self) -> Streams:
        """Opens the training data, and the caches of teachers that have one.

        Raises:
            ValueError: an unknown source, too few records, or a cache of other data.
        """
        opened = Streams(
            durations.entries(self.settings, self.counts, lambda: self.steps.total),
            seed=self.settings.seed,
            # One process has all rows of a batch, however the mesh cuts it.
            part=Part(*sharding.own_shards(self.mesh)) if jax.process_count() > 1 else None,
            tokenizer=self.tokenizer,
            extra=teacher_cache.readers(self.settings, lambda: self.steps.total),
            **self.settings.loader.plain(),
        )
        self.counts.update(opened.state()["streams"])
        return opened

    def place(self, batches: Any) -> Any:
        """This process's rows, as the streams give them, as global arrays on the mesh."""
        return sharding.global_batches(self.mesh, batches)

    @functools.cached_property
    def teacher_shapes(self) -> Mapping[str, Any]:
        """{teacher: its parameters as `jax.ShapeDtypeStruct`}; no file of theirs is opened."""
        return teachers.shapes(self.program.teachers.members, self.shapes)

    def load_teachers(self) -> Mapping[str, Any]:
        """The teachers' parameters, on the mesh; see `teachers.transform.load_params`."""
        return teachers.load_params(
            self.settings.teachers,
            self.program.teachers.members,
            self.shapes,
            self.mesh,
            self.settings.rules.sharding,
            words=self.tokenizer.vocab_size,
        )

    @functools.cached_property
    def params(self) -> Any:
        """The parameters as `jax.ShapeDtypeStruct`.

        Raises:
            ValueError: an objective on a stream that does not give what it reads, and whatever else
                model and objectives refuse when they see shapes.
        """
        init = functools.partial(step.init_params, self.program)
        # Layers of teachers ask what they will run on, which need not be here.
        platform = None if self.devices is None else sharding.platform_of(self.devices)
        with placements.use(placements.Placement(platform=platform)):
            return jax.eval_shape(init, self.teacher_shapes, self.shapes)

    @functools.cached_property
    def merge(self) -> Any:
        """The first link of the chain."""
        # Asked for under a trace it is kept beyond it, so its arrays must be no tracers.
        with jax.ensure_compile_time_eval():
            return chosen.merge(self.settings, self.steps.total)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optax chain."""
        numbers = self.settings.optimizer.plain()
        project = numbers.pop("project") or ()
        numbers["schedule"] |= {"warmup": self.steps.warmup}
        return build.build(
            self.params,
            merge=self.merge,
            settings=build.Settings(**numbers),
            total_steps=self.steps.total,
            rules=self.settings.rules.plain(),
            project=project,
        )

    @property
    def refresh(self) -> Refresh | None:
        """The merge's `refresh(opt_state, step) -> opt_state`, to be called before every step."""
        return self.merge.refresh

    @functools.cached_property
    def spikes(self) -> gradient_spikes.Spikes:
        """What looks at the gradient norms."""
        return gradient_spikes.Spikes(**self.settings.spikes.plain())

    def rate(self, updates: int) -> float:
        """The learning rate after so many updates."""
        numbers = self.settings.optimizer
        told: dict[str, Any] = numbers.schedule.plain() | {"warmup": self.steps.warmup}
        schedule = schedules.build(total_steps=self.steps.total, **told)
        return float(jnp.asarray(numbers.lr * schedule(jnp.asarray(updates))))

    @functools.cached_property
    def target(self) -> step.TrainState:
        """The train state as `jax.ShapeDtypeStruct` with shardings."""
        shapes = jax.eval_shape(self.init_state, self.params)
        where = sharding.params_shardings(self.mesh, self.params, self.settings.rules.sharding)
        shardings = shapes.replace(
            step=sharding.replicated(self.mesh),
            params=where,
            opt_state=sharding.like_params(self.mesh, shapes.opt_state, self.params, where),
            ema=None if shapes.ema is None else where,
            spikes=jax.tree.map(lambda _: sharding.replicated(self.mesh), shapes.spikes),
        )
        return sharding.on_mesh(shapes, shardings)

    @functools.cached_property
    def shardings(self) -> step.TrainState:
        """Where the state lies."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.target)

    def init_params(self, teacher_params: Any, seed: Any = None) -> Any:
        """New parameters; call it under `jit`, or `jax.vmap` it over seeds.

        Args:
            teacher_params: as `load_teachers` gives them; their numbers have no part in it.
            seed: i32[]; that of the settings if None.
        """
        # Nor has any number of a batch: the compiler drops the zeros that stand for them.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.shapes)
        return step.init_params(self._seeded(seed), teacher_params, zeros)

    def init_state(self, params: Any) -> step.TrainState:
        """The state of step 0 from parameters."""
        averaged = self.settings.ema is not None
        return step.init_state(params, self.optimizer, ema=averaged, spikes=self.spikes)

    def fresh_state(self, teacher_params: Any = None) -> step.TrainState:
        """The state of step 0 on the mesh, with parameters from the seed or from `init`.

        Raises ValueError: rules that decide no parameter, or an `init` that does not fit.

        Args:
            teacher_params: as `load_teachers` gives them.
        """
        build.check_used(self.params, self.settings.rules.plain())
        init = jax.jit(self.init_params, out_shardings=self.shardings.params)
        params = init({} if teacher_params is None else teacher_params)
        if source := self.settings.plain()["init"]:
            start.warn_of_other_numbers(source, self.program.model.towers())
            params = start.start(params, source)
        made = jax.jit(self.init_state, out_shardings=self.shardings, donate_argnums=0)
        state = jax.block_until_ready(made(params))
        heap.give_back()
        return state

    def train_step(self, *, measured: bool = False) -> Any:
        """The jitted step, `(state, teacher_params, batches) -> (state, metrics)`.

        Args:
            measured: with the numbers of `telemetry`.
        """
        return step.make_train_step(
            self.placed,
            self.optimizer,
            ema_decay=self.settings.ema,
            state_shardings=self.shardings,
            telemetry=self.telemetry if measured else None,
            spikes=self.spikes,
        )

    def plain_step(self, seed: Any = None) -> Callable:
        """The step as a plain function, to be mapped over seeds; it places nothing on a mesh.

        Args:
            seed: i32[], of dropout and of the objectives' draws; that of the settings if None.
        """
        return step.make_step(
            self._seeded(seed), self.optimizer, ema_decay=self.settings.ema, spikes=self.spikes
        )

    def _seeded(self, seed: Any) -> step.Program:
        return self.timed if seed is None else dataclasses.replace(self.timed, seed=seed)

    def compiled_step(self, teacher_params: Any) -> Any:
        """The step, compiled from shapes: a fresh and a resumed run get the same program."""
        lowered = functools.partial(
            self.train_step().lower, self.target, teacher_params, self.batches
        )
        told = self.settings
        options = (told.xla, told.accumulate, told.rules)
        program = (told.model, told.joint, *options, self.mesh.shape, self.shapes)
        return compile_times.compiled(lowered, program, self.params, self.program.model.towers())

    @property
    def telemetry(self) -> Callable | None:
        """`(grads, opt_state) -> {name: f32[]}`; None if nothing is to be measured."""
        options = self.settings.telemetry
        if not options.every:
            return None
        shared = options.shared or self.settings.merge.get("shared") or ".*"
        return functools.partial(measurements.measure, shared=shared, scope=options.scope)

    @functools.cached_property
    def metric_names(self) -> list[str]:
        """The names of what a step logs, sorted; nothing is compiled for it."""
        make = self.train_step()
        return sorted(jax.eval_shape(make, self.target, self.teacher_shapes, self.shapes)[1])

    def evaluators(self) -> dict[str, Evaluator]:
        """The evaluators of the settings, with the run's tokenizer; none if none is used."""
        if not self.settings.evaluates:
            return {}
        shards = sharding.batch_shards(sharding.own_mesh(self.mesh))
        passes = Passes(jax.process_index(), jax.process_count(), shards)
        return chosen.evaluators(self.settings, self.tokenizer, passes)


def prepare(
    settings: Settings,
    *,
    tokenizer: Tokenizer | None = None,
    shapes: Mapping[str, Any] | None = None,
    devices: Sequence[Any] | None = None,
) -> Prepared:
    """Puts together what the settings name; opens no data and touches no device.

    Args:
        settings: of the run.
        tokenizer: instead of that of the settings, which need not be there then.
        shapes: of the batches, where they do not come from the settings' streams.
        devices: of the mesh; see `Prepared`.

    Raises:
        ValueError, TypeError: a tokenizer or a teacher's folder that is not there or does not fit;
            a plugin that does not exist or refuses its options.
    """
    loaded = tokenizer or _tokenizer(settings)
    return Prepared(
        settings=settings,
        tokenizer=loaded,
        program=_program(settings, loaded),
        shapes=_shapes(settings, loaded) if shapes is None else shapes,
        devices=devices,
    )


def _shapes(settings: Settings, tokenizer: Tokenizer) -> Mapping[str, Any]:
    configs = {name: stream.plain() for name, stream in settings.streams.items()}
    specs = streams.spec(configs, tokenizer=tokenizer, extra=teacher_cache.examples(settings))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), specs)


def _tokenizer(settings: Settings) -> Tokenizer:
    loaded = tokenizers.load(settings.tokenizer)
    words = settings.model.get("vocab_size")
    if words is not None and loaded.vocab_size > words:
        raise ValueError(
            f"the tokenizer {settings.tokenizer!r} has {loaded.vocab_size} ids, the model "
            f"model.vocab_size = {words}"
        )
    return loaded


def _program(settings: Settings, tokenizer: Tokenizer) -> step.Program:
    learnt = {}
    for name, entry in settings.streams.items():
        made = {k: chosen.objective(k, v, tokenizer) for k, v in entry.objectives.items()}
        learnt[name] = joint.Stream(
            objectives={key: objective for key, (objective, _) in made.items()},
            weights={key: weight for key, (_, weight) in made.items()},
            groups=entry.groups,
        )
    named = saved.modules_of(settings.plain())
    made = step.Program(
        model=chosen.model(settings.model),
        streams=learnt,
        groups=settings.groups,
        seed=settings.seed,
        accumulate=settings.accumulate,
        joint=settings.joint,
        teachers=teachers.make_transform(
            teachers.build(settings.teachers, named, joint.lessons(learnt))
        ),
    )
    if made.needs_ema and settings.ema is None:
        raise ValueError("an objective reads the average, so config.ema must be a decay like 0.999")
    return made
