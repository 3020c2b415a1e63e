"""The loop: prepare, restore, step, log, evaluate, save. It does not know what is learnt."""

import contextlib
import dataclasses
import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from unified_fm import ending, files, setup
from unified_fm.checkpoint import assets
from unified_fm.checkpoint import state as states
from unified_fm.checkpoint.store import Checkpoints
from unified_fm.config import durations, saved
from unified_fm.config.settings import Settings
from unified_fm.data import identity
from unified_fm.data.streams import Streams
from unified_fm.evaluation import Evaluation
from unified_fm.runtime.ahead import Ahead
from unified_fm.runtime.interruption import Interrupted, Interruption
from unified_fm.runtime.log import Log
from unified_fm.runtime.nonfinite import Watch
from unified_fm.runtime.processes import hashes_of
from unified_fm.runtime.profile import Profile
from unified_fm.runtime.time_split import TimeSplit
from unified_fm.runtime.watchdog import Watchdog
from unified_fm.runtime.workdir import Held
from unified_fm.step import Program, TrainState

_log = logging.getLogger(__name__)
# Of the data, where they are allowed.
_CHANGES = ("seed", "batch", "records", "order", "parts", "stages", "streams")


@dataclasses.dataclass(kw_only=True)
class Run:
    """What the loop holds. `state`, `at` and `position` always belong together."""

    settings: Settings
    ready: setup.Prepared
    streams: Streams
    batches: Ahead[tuple[Any, Mapping[str, Any]]]  # on the devices, and the position after them
    teacher_params: Any
    step: Callable
    measuring_step: Callable | None  # the same with telemetry, compiled when it is first due
    state: TrainState
    at: int  # steps made
    position: Mapping[str, Any]  # of the streams after them
    checkpoints: Checkpoints
    log: Log
    watch: Watch
    evaluation: Evaluation
    stop: Interruption
    lock: Held | None
    dog: Watchdog
    time: TimeSplit
    profile: Profile
    measured: bool = False  # whether `measuring_step` is compiled
    unsaved: bool = False  # whether a save is due that failed or had to wait


def train(
    settings: Settings,
    workdir: Any,
    stop: Interruption,
    lock: Held | None = None,
    profile: tuple[int, int] | None = None,
) -> None:
    """Trains `settings.total_steps`, from the latest checkpoint in `workdir` if there is one.

    Args:
        settings: checked (`config.checks`).
        workdir: local or gs://; holds checkpoints, metrics and the report.
        stop: an entered `Interruption`; a signal saves and returns.
        lock: of the workdir, looked at before every save; None where this process holds none.
        profile: the first and the last step of a trace to write into the workdir.

    Raises:
        LockLost: another run has taken the workdir.
        ValueError: a checkpoint of another config, or a batch that the mesh does not divide.
        NotFinite: too many steps in a row were refused; their state is set aside.
        NotSaved, NotWritten: the last steps, or what was found of them, could not be saved.
        OSError: checkpoints could not be written several times in a row.
    """
    workdir = epath.Path(workdir)
    settings = assets.located(settings, workdir)
    run = None
    with Watchdog(stop, minutes=settings.watchdog.minutes) as dog:
        try:
            with stop.leavable():
                run = _start(
                    settings, workdir, stop, dog, lock, Profile(workdir / "profile", profile)
                )
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
                ending.close(run, failed=isinstance(sys.exception(), Exception))
            elif stop.signum is not None:
                _log.info("stopped before the first step: nothing to save")


def evaluate(settings: Settings, workdir: Any, stop: Interruption) -> None:
    """Evaluates the parameters of a checkpoint in `workdir` and writes the report.

    The training data need not be there, and no step is compiled.

    Raises:
        ValueError: no checkpoint, or one of another config.
    """
    workdir = epath.Path(workdir)
    dog = Watchdog(stop, minutes=settings.watchdog.minutes)
    with contextlib.suppress(Interrupted), dog, stop.leavable(), contextlib.ExitStack() as stack:
        settings = assets.located(settings, workdir)
        ready = setup.prepare(settings)
        evaluation = Evaluation(ready, workdir, dog, assets.kept_class_names(workdir))
        evaluation.check()
        dog.progress("reading the state to evaluate")
        checkpoints = _checkpoints(settings, workdir)
        stack.callback(checkpoints.close)
        latest = checkpoints.latest()
        stop.agree("workdir", lambda: {f"the latest checkpoint in {workdir}": latest})
        if latest is None:
            raise ValueError(f"no checkpoint in {workdir}: there is nothing to evaluate")
        if durations.streams(settings):  # the data need not be there
            ready.counts.update(checkpoints.saved_position(latest)["streams"])
        wanted = settings.evaluate.step
        if isinstance(wanted, str):
            wanted = checkpoints.best()
            if wanted is None:
                raise ValueError(f"no checkpoint in {workdir} has {settings.checkpoint.best!r}")
        state, _ = states.restored_state(settings, checkpoints, ready.target, wanted)
        at, averaged = int(state.step), settings.evaluate.params == "ema"
        with contextlib.closing(_open_log(ready, workdir, latest)) as log:
            dog.progress(f"evaluating step {at}")
            params = state.ema if averaged else state.params
            taught = ready.load_teachers() if evaluation.asks else None
            found = evaluation.run(params, ema=state.ema, teacher_params=taught, at=at)
            if found:
                log.write(at, found)
        evaluation.write_report(log.path, {"steps": f"{at:,}"})


def _start(
    settings: Settings,
    workdir: Any,
    stop: Interruption,
    dog: Watchdog,
    lock: Held | None,
    profile: Profile,
) -> Run:
    spent = TimeSplit()
    ready = setup.prepare(settings)
    _ = ready.params  # what model and objectives refuse is said before any data is opened
    streams = ready.open_streams()
    _ = ready.placed  # and what does not fit the mesh, before any weight is read
    _say_negatives(ready)
    steps, named = dataclasses.asdict(ready.steps), saved.modules_of(settings.plain())
    stop.agree(
        "data",
        lambda: identity.of_streams(streams.loaders) | hashes_of(named) | {"steps": steps},
    )
    evaluation = Evaluation(ready, workdir, dog, assets.class_names(streams.loaders))
    evaluation.check()
    dog.progress("reading the teachers and the state to start from")
    teacher_params = ready.load_teachers()
    checkpoints = _checkpoints(settings, workdir)
    stop.agree("workdir", lambda: {f"the latest checkpoint in {workdir}": checkpoints.latest()})
    if checkpoints.latest() is not None:
        state, position = states.restored_state(settings, checkpoints, ready.target)
        streams.restore(position, allow=_CHANGES if settings.checkpoint.allow_changes else ())
    else:
        with dog.held():
            state = ready.fresh_state(teacher_params)
    if jax.process_index() == 0:
        config = json.dumps(settings.plain(), indent=1)
        files.write_whole(workdir / "config.json", config, durable=True)
        assets.keep(workdir, ready.tokenizer, streams.loaders)
    streams.start()  # it loads while the step is compiled
    with dog.held(), spent.on("compilation"):
        compiled = ready.compiled_step(teacher_params)
    at = int(state.step)
    return Run(
        settings=settings,
        ready=ready,
        streams=streams,
        batches=Ahead(functools.partial(_placed, ready, streams)),
        teacher_params=teacher_params,
        step=compiled,
        measuring_step=ready.train_step(measured=True) if ready.telemetry else None,
        state=state,
        at=at,
        position=streams.state(),
        checkpoints=checkpoints,
        log=_open_log(ready, workdir, at),
        watch=_watch(settings, workdir, state),
        evaluation=evaluation,
        stop=stop,
        lock=lock,
        dog=dog,
        time=spent,
        profile=profile,
    )


def _loop(run: Run) -> None:
    every, total = run.ready.steps.checkpoint_every, run.ready.steps.total
    run.time.begin()
    # A run that was ended between a save and its evaluation makes up for it.
    if _evaluation_due(run) and not run.checkpoints.evaluated(run.at):
        ending.evaluate(run)
    while run.at < total:
        if run.stop.requested(run.at):
            return
        metrics = _step(run)
        if run.log.due(run.at):
            known = {"lr": run.ready.rate(run.at - 1), **run.time.shares()}
            run.log.train(run.at, metrics, known | run.streams.epochs(run.position))
            if run.stop.processes == 1 and not run.checkpoints.poll():
                run.unsaved = True
        # A save that failed is tried again at the next line of the log.
        if run.at < total and (run.at % every == 0 or (run.unsaved and run.log.due(run.at))):
            ending.save_in_time(run)
        if _evaluation_due(run):
            ending.evaluate(run)


def _step(run: Run) -> Mapping[str, Any]:
    batches, position = _next_batches(run)
    run.dog.progress(f"making step {run.at + 1}")
    state = _refreshed(run)
    every = run.settings.telemetry.every
    measures = bool(every) and (run.at + 1) % every == 0
    with contextlib.ExitStack() as stack:
        if measures and not run.measured:
            stack.enter_context(run.dog.held())
            stack.enter_context(run.time.on("compilation"))
            run.measured = True
        run.profile.before(run.at + 1)
        make = run.measuring_step if measures and run.measuring_step else run.step
        run.state, metrics = make(state, run.teacher_params, batches)
    run.at, run.position = run.at + 1, position
    if run.at < run.ready.steps.total:
        run.batches.ask()  # they come to the devices while these compute
    run.profile.after(run.at, metrics)
    if measures:
        run.log.write(run.at, _pop_telemetry(metrics))
    run.watch.see(run.at, metrics, lambda: run.streams.last_records(position))
    return metrics


def _next_batches(run: Run) -> tuple[Any, Mapping[str, Any]]:
    """The next batches, on the mesh, and the position of the streams after them."""
    started = time.monotonic()
    run.dog.progress(f"waiting for the batch of step {run.at + 1}")
    with run.time.on("data"), run.stop.leavable():
        found = run.batches.get()
    run.log.waited(time.monotonic() - started)
    return found


def _placed(ready: setup.Prepared, streams: Streams) -> tuple[Any, Mapping[str, Any]]:
    """Takes the next batches of the streams, in whatever thread: they are not used yet."""
    host = next(streams)
    return ready.place(host), streams.state()


def _refreshed(run: Run) -> TrainState:
    """The state, with a new mask where the merge wants one before the step that follows."""
    refresh, state = run.ready.refresh, run.state
    if refresh is None:
        return state
    opt_state = refresh(state.opt_state, run.at)
    if opt_state is state.opt_state:
        return state
    return dataclasses.replace(
        state, opt_state=jax.device_put(opt_state, run.ready.shardings.opt_state)
    )


def _evaluation_due(run: Run) -> bool:
    """Whether the step is one of those to evaluate; the last one is the business of the end."""
    every, total = run.ready.steps.evaluate_every, run.ready.steps.total
    return bool(every and run.at and run.at % every == 0 and run.at < total)


def _pop_telemetry(metrics: dict[str, Any]) -> Mapping[str, Any]:
    """Takes the telemetry out of the metrics of a step, which are logged at other steps."""
    names = [name for name in metrics if name.startswith("telemetry/")]
    return jax.device_get({name: metrics.pop(name) for name in names})


def _open_log(ready: setup.Prepared, workdir: Any, at: int) -> Log:
    settings = ready.settings
    return Log(
        workdir,
        total_steps=ready.steps.total,
        start_step=at,
        samples_per_step=settings.samples_per_step,
        **settings.log.plain(),
    )


def _watch(settings: Settings, workdir: Any, state: TrainState) -> Watch:
    return Watch(
        workdir,
        seed=settings.seed,
        spikes=0 if state.spikes is None else int(state.spikes.found),
        policy=settings.spikes.policy,
        **settings.nonfinite.plain(),
    )


def _checkpoints(settings: Settings, workdir: Any) -> Checkpoints:
    options = settings.checkpoint
    return Checkpoints(
        workdir / "checkpoints",
        keep=options.keep,
        best=options.best,
        best_mode=options.best_mode,
        max_failures=options.max_failures,
    )


def _say_negatives(ready: setup.Prepared) -> None:
    """Which rows they come from: those of a group, or of a micro-batch."""
    _say_groups(ready.settings, ready.program)
    _say_inexact(ready.program)


def _say_inexact(program: Program) -> None:
    if program.accumulate > 1 and program.inexact:
        names = ", ".join(program.inexact)
        _log.info(
            "accumulate=%d: %s compare rows of one micro-batch only, so they see fewer negatives "
            "than in the whole batch; the other losses are those of the whole batch",
            program.accumulate,
            names,
        )


def _say_groups(settings: Settings, program: Program) -> None:
    """Names what `groups` changes: a group is where negatives are drawn from."""
    for name, stream in program.streams.items():
        drawing = [key for key, each in stream.objectives.items() if each.refers and each.same]
        if drawing:
            rows, groups = settings.streams[name].batch_size, stream.groups or 1
            _log.info(
                "stream %s: %s draws its negatives from the %d rows of a group; another number of "
                "groups (streams.%s.groups, now %d) changes them",
                name,
                ", ".join(drawing),
                rows // groups,
                name,
                groups,
            )
