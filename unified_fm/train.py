"""The loop: build, restore, step, log, evaluate, save. It does not know what is learnt."""

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from unified_fm import assembly, ending, sharding, step
from unified_fm.checkpoint import start as initialisation
from unified_fm.checkpoint.store import Checkpoints
from unified_fm.data import identity
from unified_fm.evaluation import Evaluation
from unified_fm.optim import schedules
from unified_fm.runtime.interruption import Interrupted, Interruption
from unified_fm.runtime.log import Log
from unified_fm.runtime.nonfinite import Watch
from unified_fm.runtime.processes import modules_of
from unified_fm.runtime.watchdog import Watchdog
from unified_fm.runtime.workdir import Held, whole_file
from unified_fm.teachers import transform as teachers

_log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class _Run:
    """What the loop holds. `state`, `at` and `position` always belong together."""

    config: Mapping[str, Any]
    mesh: Any
    step: Callable
    measuring_step: Callable | None  # the same with telemetry, compiled when it is first due
    refresh: Callable | None
    shardings: step.TrainState
    teacher_params: Any
    streams: Any
    first: Any  # the batches that gave the shapes, if they are the next ones
    state: step.TrainState
    at: int  # steps made
    position: Any  # of the streams after them
    checkpoints: Checkpoints
    log: Log
    watch: Watch
    evaluation: Evaluation
    stop: Interruption
    lock: Held | None
    dog: Watchdog
    measured: bool = False  # whether `measuring_step` is compiled
    unsaved: bool = False  # whether a save is due that failed or had to wait


def train(
    config: Mapping[str, Any], workdir: Any, stop: Interruption, lock: Held | None = None
) -> None:
    """Trains to `config["total_steps"]`, from the latest checkpoint in `workdir` if there is one.

    Args:
        config: a complete and checked config (`settings`), plain dicts.
        workdir: local or gs://; holds checkpoints, metrics and the report.
        stop: an entered `Interruption`; a signal saves and returns.
        lock: of the workdir, looked at before every save; None where this process holds none.

    Raises:
        LockLost: another run has taken the workdir.
        ValueError: a checkpoint of another config, or a batch that the mesh does not divide.
        NotFinite: too many steps in a row were refused; their state is set aside.
        NotSaved, NotWritten: the last steps, or what was found of them, could not be saved.
        OSError: checkpoints could not be written several times in a row.
    """
    workdir = epath.Path(workdir)
    run = None
    with Watchdog(stop, **config["watchdog"]) as dog:
        try:
            with stop.leavable():
                run = _start(config, workdir, stop, dog, lock)
            stop.rescue = functools.partial(ending.rescue, run)
            _loop(run)
            if stop.signum is None:
                ending.finish(run)
        except Interrupted:
            pass
        except Exception as error:
            stop.closing()
            if run is not None:
                ending.save_on_error(run, error)
            raise
        finally:
            stop.closing()
            stop.rescue = None
            if run is not None:
                ending.close(run)
            elif stop.signum is not None:
                _log.info("stopped before the first step: nothing to save")


def evaluate(config: Mapping[str, Any], workdir: Any, stop: Interruption) -> None:
    """Evaluates the parameters of the latest checkpoint in `workdir` and writes the report.

    Raises:
        ValueError: no checkpoint, or one of another config.
    """
    dog = Watchdog(stop, **config["watchdog"])
    with contextlib.suppress(Interrupted), dog, stop.leavable():
        run = _start(config, epath.Path(workdir), stop, dog)
        if not run.at:
            raise ValueError(f"no checkpoint in {workdir}: there is nothing to evaluate")
        ending.evaluate(run)
        run.evaluation.write_report(run.log.path, {"steps": f"{run.at:,}"})
        ending.close(run)


def _start(config, workdir, stop, dog, lock=None) -> _Run:
    program = assembly.program(config)
    _say_inexact(program)
    mesh = sharding.make_mesh(**config["mesh"])
    tokenizer = assembly.tokenizer(config)
    streams = assembly.streams(config, tokenizer)
    position = streams.state()
    stop.agree("data", lambda: identity.of_streams(streams.loaders) | modules_of(config))
    dog.progress("waiting for the first batch")
    first = next(streams)
    sharding.check_divisible(mesh, first, config["accumulate"])
    batches = sharding.global_batches(mesh, first)
    evaluation = Evaluation(config, workdir, program, mesh, tokenizer, dog)
    evaluation.check()
    dog.progress("reading the teachers and the state to start from")
    teacher_params = _load_teachers(config, program, batches, mesh, tokenizer)

    shapes = jax.eval_shape(lambda t, b: step.init_params(program, t, b), teacher_params, batches)
    tx, refresh = assembly.optimizer(config, shapes)
    target = assembly.state_target(config, mesh, shapes, tx)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)
    checkpoints = _checkpoints(config, workdir)
    stop.agree("workdir", lambda: {f"the latest checkpoint in {workdir}": checkpoints.latest()})
    state, saved = _first_state(
        config, checkpoints, target, dog, program, tx, shardings, teacher_params, batches
    )
    if saved is not None:
        allow = ("seed", "batch", "records", "streams")
        streams.restore(saved, allow=allow if config["checkpoint"]["allow_changes"] else ())
        position, first = saved, None
    _write_config(config, workdir)
    options = {"ema_decay": config["ema"], "spikes": assembly.spikes(config)}
    make_step = functools.partial(
        step.make_train_step, program, tx, state_shardings=shardings, **options
    )
    with dog.held():
        compiled = _compiled(make_step(), target, teacher_params, batches)
    telemetry, at = assembly.telemetry(config), int(state.step)
    return _Run(
        config=config,
        mesh=mesh,
        step=compiled,
        measuring_step=make_step(telemetry=telemetry) if telemetry else None,
        refresh=refresh,
        shardings=shardings,
        teacher_params=teacher_params,
        streams=streams,
        first=first,
        state=state,
        at=at,
        position=position,
        checkpoints=checkpoints,
        log=_open_log(config, workdir, at),
        watch=_watch(config, workdir, state),
        evaluation=evaluation,
        stop=stop,
        lock=lock,
        dog=dog,
    )


def _first_state(config, checkpoints, target, dog, *fresh) -> tuple[step.TrainState, Any]:
    """The state to go on from, and the position of the streams; None for that if it is fresh."""
    if checkpoints.latest() is not None:
        return initialisation.restored_state(config, checkpoints, target)
    with dog.held():
        return initialisation.fresh_state(config, *fresh), None


def _open_log(config, workdir, at) -> Log:
    return Log(
        workdir,
        total_steps=config["total_steps"],
        start_step=at,
        samples_per_step=sum(s["batch_size"] for s in config["streams"].values()),
        **config["log"],
    )


def _watch(config, workdir, state) -> Watch:
    return Watch(
        workdir,
        seed=config["seed"],
        spikes=0 if state.spikes is None else int(state.spikes.found),
        policy=config["spikes"]["policy"],
        **config["nonfinite"],
    )


def _load_teachers(config, program, batches, mesh, tokenizer) -> Any:
    if not config["teachers"]:
        return {}
    return teachers.load_params(
        config["teachers"],
        program.teachers.members,
        batches,
        mesh,
        config["rules"]["sharding"],
        words=tokenizer.vocab_size,
    )


def _say_inexact(program: step.Program) -> None:
    if program.accumulate > 1 and program.inexact:
        names = ", ".join(program.inexact)
        _log.info(
            "accumulate=%d: %s compare rows of one micro-batch only, so they see fewer negatives "
            "than in the whole batch; the other losses are those of the whole batch",
            program.accumulate,
            names,
        )


def _compiled(train_step: Any, target: step.TrainState, teacher_params: Any, batches: Any) -> Any:
    """Compiles ahead of the loop, where a signal can still be obeyed at once.

    From shapes, not from the state, so that a fresh and a resumed run get the same program.
    """
    started = time.monotonic()
    compiled = train_step.lower(target, teacher_params, batches).compile()
    count = sum(leaf.size for leaf in jax.tree.leaves(target.params))
    _log.info("%s parameters; compiled in %.1f s", f"{count:,}", time.monotonic() - started)
    return compiled


def _loop(run: _Run) -> None:
    every, total = run.config["checkpoint"]["every"], run.config["total_steps"]
    # A run that was ended between a save and its evaluation makes up for it.
    if _evaluation_due(run) and not run.checkpoints.evaluated(run.at):
        ending.evaluate(run)
    while run.at < total:
        if run.stop.requested(run.at):
            return
        metrics = _step(run)
        if run.log.due(run.at):
            run.log.train(run.at, metrics, {"lr": _rate(run.config, run.at - 1)})
            if run.stop.processes == 1 and not run.checkpoints.poll():
                run.unsaved = True
        # A save that failed is tried again at the next line of the log.
        if run.at < total and (run.at % every == 0 or (run.unsaved and run.log.due(run.at))):
            ending.save_in_time(run)
        if _evaluation_due(run):
            ending.evaluate(run)


def _evaluation_due(run: _Run) -> bool:
    """Whether the step is one of those to evaluate; the last one is the business of the end."""
    every = run.config["evaluate"]["every"]
    return bool(every and run.at and run.at % every == 0 and run.at < run.config["total_steps"])


def _step(run: _Run) -> Mapping[str, Any]:
    started = time.monotonic()
    run.dog.progress(f"waiting for the batch of step {run.at + 1}")
    if run.first is None:
        with run.stop.leavable():
            host = next(run.streams)
            position = run.streams.state()
    else:
        host, run.first, position = run.first, None, run.streams.state()
    run.log.waited(time.monotonic() - started)
    batches = sharding.global_batches(run.mesh, host)
    run.dog.progress(f"making step {run.at + 1}")
    state = run.state
    if run.refresh is not None:
        opt_state = run.refresh(state.opt_state, run.at)
        if opt_state is not state.opt_state:
            state = state.replace(opt_state=jax.device_put(opt_state, run.shardings.opt_state))
    every = run.config["telemetry"]["every"]
    measures = every and (run.at + 1) % every == 0
    with contextlib.ExitStack() as stack:
        if measures and not run.measured:
            stack.enter_context(run.dog.held())
            run.measured = True
        make = run.measuring_step if measures else run.step
        run.state, metrics = make(state, run.teacher_params, batches)
    run.at, run.position = run.at + 1, position
    if measures:
        run.log.write(run.at, _pop_telemetry(metrics))
    run.watch.see(run.at, metrics, lambda: run.streams.last_records(position))
    return metrics


def _pop_telemetry(metrics: dict[str, Any]) -> Mapping[str, Any]:
    """Takes the telemetry out of the metrics of a step, which are logged at other steps."""
    names = [name for name in metrics if name.startswith("telemetry/")]
    return jax.device_get({name: metrics.pop(name) for name in names})


def _checkpoints(config, workdir) -> Checkpoints:
    options = dict(config["checkpoint"])
    for key in ("every", "allow_changes", "allow_fallback"):
        options.pop(key)
    return Checkpoints(workdir / "checkpoints", **options)


def _rate(config, count: int) -> float:
    optimizer = config["optimizer"]
    schedule = schedules.build(total_steps=config["total_steps"], **optimizer["schedule"])
    return float(optimizer["lr"] * schedule(jnp.asarray(count)))


def _write_config(config: Mapping[str, Any], workdir: Any) -> None:
    if jax.process_index() == 0:
        with whole_file(workdir / "config.json") as file:
            file.write_text(json.dumps(config, indent=1))
