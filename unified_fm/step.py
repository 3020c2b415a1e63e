"""One training step: streams -> views -> losses -> a gradient tree per group -> one update.

The step knows no objective but by the contract (`objectives.base.Objective`): a stream's objectives
are called with the model, its views and the batch, and return a loss with the number it was divided
by. That number is what makes micro-batches (`accumulate`) recombine exactly.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from unified_fm import joint, micro_batches
from unified_fm import placement as placements
from unified_fm.models.base import Ask
from unified_fm.optim import build, norms
from unified_fm.optim import spikes as gradient_spikes
from unified_fm.optim.settled import settled

Batches = Mapping[str, Mapping[str, Any]]


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        step: i32[], steps made, refused ones included.
        params: f32 parameter tree.
        opt_state: state of the optax chain.
        ema: moving average of `params`, or None.
        spikes: `spikes.State` of the gradient norms seen, or None.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any = None
    spikes: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What is learnt from what: the model, the streams and the groups of their gradients.

    Attributes:
        model: Linen module, see `models.base.Model`.
        streams: {name: stream}.
        groups: {gradient group: names of its streams}.
        seed: of dropout and of the objectives' own draws.
        accumulate: number of micro-batches into which every batch is cut.
        teachers: `(teacher_params, batches) -> batches` with the targets of frozen teachers.
        joint: let the rows of all streams of a group go through the encoders together.
        placement: of the mesh that the step runs on.
        schedules: {stream: {objective: steps made -> factor of its weight f32[]}}, of the losses
            whose weight changes over the run.
    """

    model: nn.Module
    streams: Mapping[str, joint.Stream]
    groups: Mapping[str, Sequence[str]]
    seed: int = 0
    accumulate: int = 1
    teachers: Callable = lambda teacher_params, batches: batches
    joint: bool = True
    placement: placements.Placement = placements.NOWHERE
    schedules: Mapping[str, Mapping[str, Callable]] = dataclasses.field(default_factory=dict)

    def weights(self, steps: jax.Array) -> dict[str, dict[str, Any]]:
        """{stream: {objective: weight of its loss}} after so many steps i32[], refused ones too."""
        found = {name: dict(stream.weights) for name, stream in self.streams.items()}
        for name, schedules in self.schedules.items():
            for key, schedule in schedules.items():
                found[name][key] = jnp.float32(found[name][key]) * schedule(steps)
        return found

    @property
    def needs_ema(self) -> bool:
        """Whether an objective reads the moving average as a teacher."""
        return any(stream.ema_reads for stream in self.streams.values())

    @property
    def inexact(self) -> list[str]:
        """The losses whose value over micro-batches is not the value over the whole batch."""
        return [
            f"{name}/{key}"
            for name, stream in self.streams.items()
            for key, objective in stream.objectives.items()
            if not objective.accumulates
        ]

    def check(self, batches: Mapping[str, Collection[str]]) -> None:
        """Refuses an objective on a stream that cannot give what it reads; traces nothing.

        Args:
            batches: {stream: names of the arrays in its batches}, or the batches themselves.

        Raises:
            ValueError: see `joint.Stream.check`.
        """
        for name, stream in self.streams.items():
            stream.check(name, self.model, batches[name])


def init_params(program: Program, teacher_params: Any, batches: Batches) -> Any:
    """Makes the parameters that the streams' objectives use, and no others: nested dicts, f32.

    Any batches of the streams' keys do. Call it under `jit` or `eval_shape`.

    Raises:
        ValueError: see `Program.check`.
    """
    program.check(batches)

    def run(net, batches):
        for name, stream in program.streams.items():
            batch = batches[name]
            reads = {**dict.fromkeys(stream.ema_reads, False), **stream.reads}
            ask = Ask(reads=reads, groups=stream.groups or 1)
            views = net.encode({name: batch}, {name: ask})[name]
            if stream.ema_reads:
                batch = joint.with_ema(batch, views, stream.ema_reads)
            for key, objective in stream.objectives.items():
                started = {(name, key): objective(net, views, batch)}
                joint.answered(started, {name: net}, {(name, key): None}, joint=False)

    keys = jax.random.split(jax.random.key(program.seed), 3)
    rngs = dict(zip(("params", "dropout", "objective"), keys, strict=True))
    batches = program.teachers(teacher_params, batches)
    return nn.init(run, program.model)(rngs, batches)["params"]


def init_state(
    params: Any,
    tx: optax.GradientTransformation,
    *,
    ema: bool,
    spikes: gradient_spikes.Spikes | None = None,
) -> TrainState:
    """Makes the state of step 0 from the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        # A copy: the step donates its state, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        spikes=spikes.init() if spikes else None,
    )


def make_train_step(
    program: Program,
    tx: optax.GradientTransformationExtraArgs,
    *,
    state_shardings: Any = None,
    **options: Any,
) -> Any:
    """Makes the step of `make_step`, jitted; it donates its state.

    `state_shardings` is where the new state lies, a `TrainState` of shardings.
    """
    out = None if state_shardings is None else (state_shardings, None)
    return jax.jit(make_step(program, tx, **options), donate_argnums=0, out_shardings=out)


def make_step(
    program: Program,
    tx: optax.GradientTransformationExtraArgs,
    *,
    ema_decay: float | None = None,
    telemetry: Callable | None = None,
    spikes: gradient_spikes.Spikes | None = None,
) -> Callable:
    """Makes the step as a pure function.

    Args:
        program: the program.
        tx: chain whose first link merges `{group: gradient tree}`.
        ema_decay: of the moving average; None keeps none.
        telemetry: `(grads, opt_state) -> {name: f32[]}`, logged as "telemetry/NAME".
        spikes: what to do about spikes of the gradient norm; the state must then have a window.

    Returns:
        `step(state, teacher_params, batches) -> (state, metrics)`. Metrics are f32[] by name:
        "stream/objective", "stream/objective/metric", "stream/objective/weight" where it changes,
        "stream/padding" (share of its texts' places that hold no token), "loss/group",
        "grad_norm/group" before the merge, "grad_norm" after it (`build.merged_norm`),
        "update_norm", "param_norm" after the update (NaN where the optimizer's state after it is
        not finite), "spikes" so far, "spike_sigma", and "ok", which is 0 when a loss, a gradient or
        anything of the new state was not finite: such a step changes nothing but `step`.
    """

    def step(state, teacher_params, batches):
        rng = jax.random.fold_in(jax.random.key(program.seed), state.step)
        losses, grads, metrics = _gradients(program, state, teacher_params, batches, rng)

        updates, opt_state = tx.update(grads, state.opt_state, state.params, losses=losses)
        new = state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        if ema_decay is not None:
            new = new.replace(ema=optax.incremental_update(new.params, state.ema, 1.0 - ema_decay))

        metrics |= _padding(batches) | _changing(program, state.step)
        checked = {f"loss/{group}": loss for group, loss in losses.items()}
        checked |= {f"grad_norm/{group}": norms.norm(tree) for group, tree in grads.items()}
        checked["grad_norm"] = build.merged_norm(opt_state)
        checked["update_norm"] = norms.norm(updates)
        alike, rest = norms.like(new.params, (new.opt_state, new.ema))
        checked["param_norm"] = norms.norm_if_finite(new.params, alike)
        ok = jnp.all(jnp.isfinite(jnp.stack(list(checked.values())))) & norms.all_finite(rest)
        ok = settled(ok)
        metrics |= checked
        if telemetry is not None:
            measured = telemetry(grads, opt_state)
            metrics |= {f"telemetry/{name}": value for name, value in measured.items()}
        applied, seen = ok, state.spikes
        if spikes is not None and seen is not None:
            moved, spike, sigma = spikes.look(seen, checked["grad_norm"])
            seen = _choose(ok, moved, seen)
            metrics |= {"spikes": seen.found.astype(jnp.float32), "spike_sigma": sigma}
            if spikes.policy == "skip":
                applied = settled(applied & ~spike)
        state = _choose(applied, new, state).replace(step=state.step + 1, spikes=seen)
        return state, metrics | {"ok": ok.astype(jnp.float32)}

    return step


def make_apply(model: nn.Module, place: Callable = lambda batch: batch) -> Callable:
    """Makes what evaluators call: `apply(fn, params, batch, rngs=None) -> fn(net, batch)`, jitted.

    `place` puts a batch of NumPy arrays on the devices.
    """
    compiled = {}

    def apply(fn, params, batch, rngs=None):
        if fn not in compiled:
            bound = nn.apply(fn, model)
            compiled[fn] = jax.jit(lambda p, b, r: bound({"params": p}, b, rngs=r))
        return compiled[fn](params, place(batch), rngs)

    return apply


def make_outputs(program: Program, place: Callable = lambda batch: batch) -> Callable:
    """Makes what tells how the objectives of a stream judge other data than a step's.

    Returns:
        `outputs(stream, params, ema, teacher_params, batch, rng) -> {objective: Output}`, jitted:
        as in a step, but without dropout. `ema` may be None where no objective reads it.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def compiled(name, params, ema, teacher_params, batch, rng):
        batches = program.teachers(teacher_params, {name: batch})
        stream = {name: program.streams[name]}
        given = program.model, stream, params, ema, batches, rng
        return joint.outputs(*given, dropout=False)[name]

    def outputs(name, params, ema, teacher_params, batch, rng):
        return compiled(name, params, ema, teacher_params, place(batch), rng)

    return outputs


def make_predictions(program: Program, place: Callable = lambda batch: batch) -> Callable:
    """Makes what tells what an objective of a stream predicts of other data than a step's.

    Returns:
        `predictions(stream, objective, params, batch) -> {name: [B ...]}`, jitted, without dropout.
    """

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def compiled(name, key, params, batch):
        return joint.predictions(program.model, program.streams[name], key, params, batch)

    def predictions(name, key, params, batch):
        return compiled(name, key, params, place(batch))

    return predictions


def _gradients(program, state, teacher_params, batches, rng):
    """Losses {group: f32[]}, gradients {group: tree} and metrics of the whole batch."""
    weights = program.weights(state.step)

    def part(batches, rng, shares):
        batches = program.teachers(teacher_params, batches)
        losses, grads, metrics = {}, {}, {}
        for group in program.groups:
            fn = jax.value_and_grad(
                lambda params, group=group: _group_loss(
                    program, group, params, state.ema, batches, rng, shares, weights
                ),
                has_aux=True,
            )
            (losses[group], logs), grads[group] = fn(state.params)
            metrics |= logs
        return losses, grads, metrics

    if program.accumulate == 1:
        return part(batches, rng, None)

    pieces = micro_batches.split(
        batches, program.accumulate, {name: s.groups for name, s in program.streams.items()}
    )
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(program.accumulate))
    program = _of_a_piece(program)
    shares = _shares(program, state, teacher_params, pieces, rngs)

    def body(total, piece):
        return jax.tree.map(jnp.add, total, part(*piece)), None

    shapes = jax.eval_shape(part, *jax.tree.map(lambda x: x[0], (pieces, rngs, shares)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(body, zeros, (pieces, rngs, shares))[0]


def _of_a_piece(program):
    """The program of a micro-batch, which has fewer groups of rows."""
    count = program.accumulate
    cut = {
        name: stream
        if stream.groups is None
        else dataclasses.replace(stream, groups=micro_batches.groups_of(stream.groups, count))
        for name, stream in program.streams.items()
    }
    return dataclasses.replace(program, streams=cut)


def _padding(batches):
    """{"stream/padding": share of the places in the texts of a stream that hold no token}."""
    masks = {name: batch["text_mask"] for name, batch in batches.items() if "text_mask" in batch}
    return {f"{name}/padding": 1 - mask.astype(jnp.float32).mean() for name, mask in masks.items()}


def _changing(program, steps):
    """{"stream/objective/weight": f32[]} of the weights that change, after so many steps."""
    weights = program.weights(steps)
    keys = [(name, key) for name, schedules in program.schedules.items() for key in schedules]
    return {f"{name}/{key}/weight": weights[name][key] for name, key in keys}


def _group_loss(program, group, params, ema, batches, rng, shares, weights):
    """The weighted sum of a group's losses, and its metrics by name.

    `shares` holds for every term the part of the whole batch's denominator that lies in this
    micro-batch, so that the sum over micro-batches is the value over the batch.
    """
    total, metrics = jnp.zeros((), jnp.float32), {}
    with placements.use(program.placement):
        params, ema = (
            tree if tree is None else program.placement.params("", tree) for tree in (params, ema)
        )
        streams = {name: program.streams[name] for name in program.groups[group]}
        given = program.model, streams, params, ema, batches, rng
        found = joint.outputs(*given, joint=program.joint)
    for name, outputs in found.items():
        for key, terms in outputs.items():
            share = shares[name][key] if shares is not None else {}
            loss = micro_batches.combine(terms, share)
            total += weights[name][key] * loss
            metrics |= micro_batches.log(f"{name}/{key}", terms, loss, share)
    return total, metrics


def _shares(program, state, teacher_params, pieces, rngs):
    """{stream: {objective: {term: f32[A]}}}: each micro-batch's part of the denominators.

    They depend on the data alone, so XLA drops the model from this pass.
    """

    def denominators(piece):
        batches, rng = piece
        batches = program.teachers(teacher_params, batches)
        with placements.use(program.placement):
            given = program.model, program.streams, state.params, state.ema, batches, rng
            found = joint.outputs(*given)
        return {
            name: {key: micro_batches.denominators(output) for key, output in outputs.items()}
            for name, outputs in found.items()
        }

    found = jax.lax.map(denominators, (pieces, rngs))
    return jax.tree.map(lambda x: x / jnp.maximum(x.sum(), jnp.finfo(x.dtype).tiny), found)


def _choose(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
